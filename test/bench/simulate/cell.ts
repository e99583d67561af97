/**
 * A simulated cell: the real micro-batcher and the real router, with calls that take a round trip to be accepted. It is one
 * thread: what it does for a request or a frame takes time and waits for what came before.
 */

import type { BackendAddress } from "../../../edge/backend/addresses.ts";
import type { Backend } from "../../../edge/backend/backend-group.ts";
import { roundTripMs } from "../../../edge/backend/round-trips.ts";
import { Router } from "../../../edge/backend/router.ts";
import { mostLosses } from "../../../edge/backend/routing-limits.ts";
import { batchingLimits, type MicroBatch, MicroBatcher } from "../../../edge/batching/micro-batcher.ts";
import type { Region } from "../../../edge/platform/region.ts";
import type { Sequence, SimulatedBackend } from "./backend.ts";
import type { EventQueue } from "./events.ts";
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
  attempts: number;
  /** The first token has left the cell. */
  onFirstToken(): void;
  onDone(): void;
  onFailed(): void;
}

const manifestHash = "simulated";

export class SimulatedCell {
  readonly #events: EventQueue;
  readonly #times: CellTimes;
  readonly #router: Router;
  readonly #batcher = new MicroBatcher<Pending>(batchingLimits);
  readonly #backends: ReadonlyMap<string, { address: BackendAddress; process: SimulatedBackend }>;
  /** Sequences under way by process, to find them when it is lost. */
  readonly #running = new Map<Sequence, { pending: Pending; backend: Backend }>();
  readonly #roundTripMs: (to: Region | null) => number;
  /** When the cell's thread has done what was asked of it. */
  #freeAtMs = 0;
  requests = 0;
  batches = 0;
  busyMs = 0;

  constructor(
    events: EventQueue,
    region: Region,
    times: CellTimes,
    backends: ReadonlyMap<string, { address: BackendAddress; process: SimulatedBackend }>,
    toRegionMs = (to: Region | null) => roundTripMs(region, to),
  ) {
    this.#roundTripMs = toRegionMs;
    this.#events = events;
    this.#times = times;
    this.#backends = backends;
    this.#router = new Router(
      [...backends.values()].map(({ address }) => address),
      { region },
    );
  }

  /** A request has arrived. */
  take(pending: Pending): void {
    this.requests++;
    this.#work(this.#times.request, () => this.#enqueue(pending));
  }

  /** A process is gone: of what it had, this cell's sequences go on elsewhere. */
  lose(lost: readonly Sequence[]): void {
    for (const sequence of lost) {
      const entry = this.#running.get(sequence);
      if (!entry) continue;
      this.#running.delete(sequence);
      this.#router.addLoad(entry.backend, -1);
      this.#router.recordFailure(entry.backend, true, this.#events.nowMs);
      this.#enqueue(entry.pending);
    }
  }

  #enqueue(pending: Pending): void {
    if (++pending.attempts > mostLosses || !this.#batcher.enqueue(pending.arrival.centroidId, [pending])) {
      pending.onFailed();
      return;
    }
    this.#send();
  }

  #send(): void {
    const next = () => this.#batcher.take(this.#events.nowMs);
    for (let batch = next(); batch; batch = next()) {
      this.batches++;
      this.#call(batch, batch.entries, new Set());
    }
  }

  #call(batch: MicroBatch<Pending>, entries: readonly Pending[], tried: Set<string>): void {
    const { id, key } = batch;
    const nowMs = this.#events.nowMs;
    const choice = this.#router.choose({ manifestHash, centroidId: key }, tried, nowMs);
    if (!choice) {
      for (const pending of entries) pending.onFailed();
      this.#batcher.accepted(id);
      return;
    }
    const { backend } = choice;
    const { address, process } = this.#backends.get(backend.address.url)!;
    const legMs = this.#roundTripMs(address.region) / 2;
    this.#router.recordSent(backend, entries.length);
    this.#events.after(legMs, () => {
      if (process.isLost) {
        // Refused at once, as by a closed port.
        this.#events.after(legMs, () => {
          this.#router.recordAnswered(backend, entries.length);
          this.#router.addLoad(backend, -entries.length);
          this.#router.recordFailure(backend, true, this.#events.nowMs);
          this.#call(batch, entries, new Set([...tried, backend.id]));
        });
        return;
      }
      const refused: Pending[] = [];
      for (const pending of entries) if (!this.#start(pending, backend, process, legMs)) refused.push(pending);
      const report = process.load;
      this.#events.after(legMs, () => {
        this.#batcher.accepted(id);
        this.#router.recordAnswered(backend, entries.length);
        this.#router.recordReport(backend, report, this.#events.nowMs);
        if (refused.length > 0) {
          this.#router.addLoad(backend, -refused.length);
          this.#call(batch, refused, new Set([...tried, backend.id]));
        }
        this.#send();
      });
    });
  }

  /** False where the backend's queue is full. */
  #start(pending: Pending, backend: Backend, process: SimulatedBackend, legMs: number): boolean {
    const { promptTokens, outputTokens, tenant } = pending.arrival;
    const prompt = promptTokens + pending.generated;
    const sequence: Sequence = {
      tenant,
      dueMs: this.#events.nowMs,
      pendingPromptTokens: prompt,
      cachedTokens: 0,
      mostTokens: promptTokens + outputTokens,
      poolAdapters: [],
      remainingTokens: outputTokens - pending.generated,
      onToken: (isLast) => {
        const isFirst = pending.generated++ === 0;
        this.busyMs += this.#times.frame;
        if (!isFirst && !isLast) return;
        this.#events.after(legMs, () => {
          if (isFirst) this.#work(this.#times.frame, () => pending.onFirstToken());
          if (isLast) {
            this.#running.delete(sequence);
            this.#router.addLoad(backend, -1);
            this.#router.recordSuccess(backend);
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
    this.#running.set(sequence, { pending, backend });
    return true;
  }

  /** Runs `then` when the thread has done all that was asked before and this, too. */
  #work(ms: number, then: () => void): void {
    this.#freeAtMs = Math.max(this.#freeAtMs, this.#events.nowMs) + ms;
    this.busyMs += ms;
    this.#events.after(this.#freeAtMs - this.#events.nowMs, then);
  }
}
