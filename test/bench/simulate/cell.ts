/**
 * A simulated cell: the real micro-batcher, router, retry budget and join of waiting calls, with calls that take a round trip to
 * be accepted. It is one thread: what it does for a request or a frame takes time and waits for what came before. As in a
 * BatchRun, a backend is chosen before a call waits for one of the cell's connections, and what was lost together is sent again
 * together. Not here: hedging, and pauses between retries.
 */

import type { BackendAddress } from "../../../edge/backend/addresses.ts";
import type { Backend } from "../../../edge/backend/backend-group.ts";
import { Budget } from "../../../edge/backend/budget.ts";
import { roundTripMs } from "../../../edge/backend/round-trips.ts";
import { Router } from "../../../edge/backend/router.ts";
import { awaitingCalls, mostLosses, retryBudget } from "../../../edge/backend/routing-limits.ts";
import { WaitingCalls } from "../../../edge/backend/waiting-calls.ts";
import { MicroBatcher } from "../../../edge/batching/micro-batcher.ts";
import type { Region } from "../../../edge/platform/region.ts";
import { sequencesPerBatch } from "../../../shared/contracts/inference.ts";
import type { Sequence, SimulatedBackend } from "./backend.ts";
import type { EventQueue } from "./events.ts";
import type { Machine } from "./machine.ts";
import type { Arrival } from "./traffic.ts";

export interface CellTimes {
  /** CPU milliseconds of a cell for one request, and for one frame that it passes on. */
  request: number;
  frame: number;
}

export interface Pending {
  arrival: Pick<Arrival, "tenant" | "centroidId" | "promptTokens" | "outputTokens">;
  arrivedMs: number;
  sequence: { tenant: string };
  sharedBy: string;
  generated: number;
  losses: number;
  /** The first token has left the cell. */
  onFirstToken(): void;
  onDone(): void;
  onFailed(): void;
}

/** Sequences that are sent together, first as a micro-batch and, when their backend is lost, again. */
interface Call {
  centroidId: string;
  /** Ids of the backends that it went to in this round. */
  tried: ReadonlySet<string>;
  /** It went to another before, in this round or an earlier one. */
  isRepeated: boolean;
  /** A backend has accepted it, or none will. */
  onAnswered(): void;
}

/** A call to one backend, which may wait for a connection. */
interface BackendCall {
  /** Of the backend: calls to the same one go together. */
  key: string;
  isRepeated: boolean;
  sequences: number;
  call: Call;
  entries: readonly Pending[];
  backend: Backend;
}

const manifestHash = "simulated";

export class SimulatedCell {
  readonly #events: EventQueue;
  readonly #times: CellTimes;
  readonly #router: Router;
  readonly #retries = new Budget(retryBudget);
  readonly #batcher = new MicroBatcher<Pending>();
  readonly #backends: ReadonlyMap<string, { address: BackendAddress; process: SimulatedBackend }>;
  /** Sequences under way and what is known of each; lose() picks those of a lost process. */
  readonly #running = new Map<Sequence, { pending: Pending; backend: Backend; call: Call }>();
  readonly #region: Region | null;
  readonly #machine: Machine | null;
  /** When the cell's thread has done what was asked of it. */
  #freeAtMs = 0;
  readonly #waiting = new WaitingCalls<BackendCall>(awaitingCalls, sequencesPerBatch);
  #sendsAtMs = Number.NEGATIVE_INFINITY;
  requests = 0;
  batches = 0;
  calls = 0;
  busyMs = 0;

  /** `machine`: whose cores it shares; null: it has a thread of its own. */
  constructor(
    events: EventQueue,
    region: Region | null,
    times: CellTimes,
    backends: ReadonlyMap<string, { address: BackendAddress; process: SimulatedBackend }>,
    machine: Machine | null = null,
  ) {
    this.#events = events;
    this.#region = region;
    this.#times = times;
    this.#backends = backends;
    this.#machine = machine;
    this.#router = new Router(
      [...backends.values()].map(({ address }) => address),
      region,
    );
  }

  /** A request has arrived. */
  take(pending: Pending): void {
    this.requests++;
    this.#work(this.#times.request, () => {
      const { centroidId } = pending.arrival;
      const choice = this.#router.choose({ manifestHash, centroidId }, new Set(), this.#events.nowMs);
      if (this.#batcher.enqueue(choice?.backend.id ?? "", [pending])) this.#sendReady();
      else pending.onFailed();
    });
  }

  /** A process is gone: of what it had, this cell's calls go on elsewhere. */
  lose(lost: readonly Sequence[]): void {
    const own = lost
      .map((sequence) => ({ sequence, entry: this.#running.get(sequence)! }))
      .filter(({ entry }) => entry);
    for (const [call, sequences] of Map.groupBy(own, ({ entry }) => entry.call)) {
      for (const { sequence } of sequences) this.#running.delete(sequence);
      const entries = sequences.map(({ entry }) => entry.pending);
      for (const pending of entries) if (++pending.losses >= mostLosses) pending.onFailed();
      const { backend } = sequences[0].entry;
      const open = entries.filter(({ losses }) => losses < mostLosses);
      this.#recordFailure(backend, entries.length);
      // A backend has accepted it, so it may go to every other one.
      this.#retry({ ...call, tried: new Set(), onAnswered: () => undefined }, backend, open);
    }
  }

  #sendReady(): void {
    const { nowMs } = this.#events;
    const next = () => this.#batcher.take(nowMs);
    for (let batch = next(); batch; batch = next()) {
      const { id, entries } = batch;
      this.batches++;
      const onAnswered = () => {
        this.#batcher.accepted(id);
        this.#sendReady();
      };
      const [{ arrival }] = entries;
      this.#send({ centroidId: arrival.centroidId, tried: new Set(), isRepeated: false, onAnswered }, entries);
    }
    const untilMs = this.#batcher.gathersUntilMs;
    if (untilMs === null || (this.#sendsAtMs > nowMs && this.#sendsAtMs <= untilMs)) return;
    this.#sendsAtMs = untilMs;
    this.#events.after(untilMs - nowMs, () => this.#sendReady());
  }

  /** Sends a call that this backend failed, or a part of it, to another. */
  #retry(call: Call, failed: Backend, entries: readonly Pending[]): void {
    if (this.#retries.take(1) === 0) this.#fail(call, entries);
    else this.#send({ ...call, tried: new Set([...call.tried, failed.id]), isRepeated: true }, entries);
  }

  #fail({ onAnswered }: Call, entries: readonly Pending[]): void {
    for (const pending of entries) pending.onFailed();
    onAnswered();
  }

  #send(call: Call, entries: readonly Pending[]): void {
    const choice = this.#router.choose({ manifestHash, centroidId: call.centroidId }, call.tried, this.#events.nowMs);
    if (!choice) {
      this.#fail(call, entries);
      return;
    }
    const { backend } = choice;
    backend.recordSent(entries.length);
    const { isRepeated } = call;
    const key = `${backend.id} ${isRepeated}`;
    this.#open(this.#waiting.add({ key, isRepeated, sequences: entries.length, call, entries, backend }));
  }

  /** Calls one backend with all of these. */
  #open(sent: readonly BackendCall[]): void {
    if (sent.length === 0) return;
    const [{ backend }] = sent;
    const { address, process } = this.#backends.get(backend.address.url)!;
    const legMs = this.#machine ? 0 : roundTripMs(this.#region, address.region) / 2;
    this.calls++;
    this.#events.after(legMs, () => {
      // A lost process is a closed port, which refuses at once.
      const { isLost } = process;
      const answers = sent.map((one) => ({
        ...one,
        refused: one.entries.filter((pending) => isLost || !this.#start(pending, one.call, backend, process, legMs)),
      }));
      const report = process.load;
      this.#events.after(legMs, () => {
        this.#open(this.#waiting.release(sent));
        for (const { call, entries, refused } of answers) {
          backend.recordAnswered(entries.length);
          if (isLost) {
            this.#recordFailure(backend, entries.length);
          } else {
            backend.load.recordReport(report, this.#events.nowMs);
            backend.load.own -= refused.length;
          }
          if (refused.length < entries.length) this.#retries.earn(1);
          if (refused.length > 0) this.#retry(call, backend, refused);
          else call.onAnswered();
        }
      });
    });
  }

  #recordFailure(backend: Backend, sequences: number): void {
    backend.load.own -= sequences;
    backend.health.recordFailure(true, this.#events.nowMs);
  }

  /** False where the backend's queue is full. */
  #start(pending: Pending, call: Call, backend: Backend, process: SimulatedBackend, legMs: number): boolean {
    const { promptTokens, outputTokens, tenant } = pending.arrival;
    const prompt = promptTokens + pending.generated;
    const sequence: Sequence = {
      tenant,
      dueMs: this.#events.nowMs,
      pendingPromptTokens: prompt,
      cachedTokens: 0,
      mostTokens: promptTokens + outputTokens,
      poolAdapters: [],
      isMixed: true,
      remainingTokens: outputTokens - pending.generated,
      onToken: (isLast) => {
        const isFirst = pending.generated++ === 0;
        this.busyMs += this.#times.frame;
        if (!isFirst) this.#machine?.run(this.#times.frame, () => undefined);
        if (!isFirst && !isLast) return;
        this.#events.after(legMs, () => {
          if (isFirst) this.#work(this.#times.frame, () => pending.onFirstToken());
          if (isLast) {
            this.#running.delete(sequence);
            backend.load.own -= 1;
            backend.recordSuccess();
            pending.onDone();
          }
        });
      },
    };
    try {
      process.enqueue(sequence);
    } catch {
      return false;
    }
    this.#running.set(sequence, { pending, backend, call });
    return true;
  }

  /** Runs `then` when the thread has done all that was asked before and this, too. */
  #work(ms: number, then: () => void): void {
    this.busyMs += ms;
    if (this.#machine) {
      this.#machine.run(ms, then);
      return;
    }
    this.#freeAtMs = Math.max(this.#freeAtMs, this.#events.nowMs) + ms;
    this.#events.after(this.#freeAtMs - this.#events.nowMs, then);
  }
}
