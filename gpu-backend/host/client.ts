/**
 * The interface to an engine in its own process: micro-batches in, frames out. Every accepted sequence gets a last frame, also
 * when that process dies or hangs. Not here: how the process is kept running (supervisor.ts).
 */
import { staticId } from "../../shared/artifacts/manifest.ts";
import {
  type BatchRequest,
  type DoneFrame,
  type ErrorFrame,
  errorFrame,
  type Frame,
  ownAdaptersOf,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";
import type { EngineInfo, EngineSettings, EngineStats, PhaseReport, TracedValues } from "../engine/messages.ts";
import { unavailable } from "../engine/refusals.ts";
import type { Traced } from "../engine/traces.ts";
import { cancelled } from "./own-adapters/making-queue.ts";
import { type EngineMessage, EngineSupervisor, type SupervisorObserver } from "./supervisor.ts";

/** A prompt that is computed for its states or keys, and gets no answer. */
export function tracedPrompt(id: string, tenant: string, promptIds: number[]): SequenceRequest {
  return {
    ...{ id, tenant, promptIds, continuedIds: [], maxTokens: 0 },
    ...{ sampling: { temperature: 0 }, promptLogprobs: false, compare: false },
  };
}

/** Receives frames of a micro-batch, in order. */
export type FrameSink = (frames: Frame[]) => void;

export interface EngineObserver extends SupervisorObserver {
  phaseRan(report: PhaseReport): void;
  /** The engine's latest stats and the previous ones; `before` is null for the first stats of a process. */
  statsChanged(after: EngineStats, before: EngineStats | null): void;
  /** A sequence's first token came `ms` after its submission, or another one `ms` after the last. */
  tokenArrived(which: "first" | "next", ms: number): void;
  sequenceEnded(last: DoneFrame | ErrorFrame): void;
  /** A sequence ended because it cannot be computed. `description` contains none of its tokens. */
  sequenceFaulted(description: string): void;
}

/** Interval of the hang check, in milliseconds; small compared with `stallMs`. */
const watchMs = 500;
/**
 * Timeout for the hidden states of an adapter's examples, in milliseconds. The edge waits 600 s for this and the fit;
 * a fit slower than 300 s may then come too late.
 */
const hiddenStatesMs = 300_000;

export interface EngineClientParts {
  observer: EngineObserver;
  /** A monotonic clock, in milliseconds. */
  now(): number;
  /**
   * Milliseconds without a finished pass, while a sequence is open, after which the engine's process is killed. The longest pass
   * takes seconds.
   */
  stallMs: number;
  /** The bytes of a tenant's own adapter or memory that is not on disk; null for any other. */
  unwrittenOf?(tenant: string, hash: string): Uint8Array | null;
  /** Environment of the engine's process. */
  environment: NodeJS.ProcessEnv;
  /** Script of the process; the engine's by default. */
  script?: URL;
}

interface OpenSequence {
  sink: FrameSink;
  /** Time at which it was submitted. */
  sinceMs: number;
  /** True if another backend made its first tokens. */
  isResumed: boolean;
  /** Time of its last token; null before. */
  lastTokenMs: number | null;
}

export class EngineClient {
  readonly #supervisor: EngineSupervisor;
  readonly #observer: EngineObserver;
  readonly #now: () => number;
  /** Open sequences by id, in the order of submission. */
  readonly #open = new Map<string, OpenSequence>();
  /** What traced prompts that have no last frame yet gave, by id. */
  readonly #traced = new Map<string, TracedValues>();
  readonly #stallMs: number;
  readonly #unwrittenOf: NonNullable<EngineClientParts["unwrittenOf"]>;
  readonly #watch: NodeJS.Timeout;
  #stats: EngineStats | null = null;
  #isClosing = false;
  #allEnded: (() => void) | null = null;
  #lastPassMs = Number.NEGATIVE_INFINITY;

  constructor(settings: EngineSettings, parts: EngineClientParts) {
    const { observer, now, stallMs, environment, script, unwrittenOf = () => null } = parts;
    this.#unwrittenOf = unwrittenOf;
    this.#observer = observer;
    this.#now = now;
    this.#stallMs = stallMs;
    this.#supervisor = new EngineSupervisor(settings, {
      ...{ observer, now, environment, script },
      onMessage: (message) => this.#onMessage(message),
      onEnd: () => this.#onEnd(),
    });
    // Reads reports that came while this process was busy before the check.
    this.#watch = setInterval(() => setImmediate(() => this.#killStalled()), watchMs);
  }

  /** Resolves once a token has been generated; rejects if the engine does not start the first time. */
  get ready(): Promise<EngineInfo> {
    return this.#supervisor.first;
  }

  /** What is served, also during a restart; null before `ready`. */
  get info(): EngineInfo | null {
    return this.#supervisor.info;
  }

  /** Whether a batch would be accepted now. */
  get isServing(): boolean {
    return !this.#isClosing && this.#supervisor.isRunning;
  }

  get stats(): EngineStats | null {
    return this.#stats;
  }

  get openSequences(): number {
    return this.#open.size;
  }

  /** Returns what is served. Throws `backend_unavailable` while the engine is starting, restarting or closing. */
  requireServing(): EngineInfo {
    if (this.#isClosing) throw unavailable("The backend is shutting down.");
    return this.#supervisor.requireRunning();
  }

  /**
   * Submits a micro-batch to the engine; its frames go to `sink`. Throws a ServiceError when it is refused as a whole: not
   * ready or shutting down, another manifest, an unknown centroid, an id that is open already.
   */
  submit(batch: BatchRequest, sink: FrameSink): void {
    const info = this.requireServing();
    if (batch.manifestHash !== info.manifestHash) {
      throw new ServiceError(
        "manifest_mismatch",
        `The batch was made for manifest ${batch.manifestHash}, this backend serves ${info.manifestHash}.`,
      );
    }
    const { centroids, static: fixed } = info.manifest;
    const isServed = ({ centroidId: wanted }: BatchRequest) =>
      wanted === staticId ? fixed !== undefined : centroids.some(({ id }) => id === wanted);
    if (batch.centroidId !== null && !isServed(batch)) {
      throw new ServiceError("invalid_request", `There is no centroid ${batch.centroidId} among ${centroids.length}.`, {
        param: "centroidId",
      });
    }
    if (ownAdaptersOf(batch).length > 0 && batch.sequences.some(({ tenant }) => tenant !== batch.sequences[0].tenant)) {
      throw new ServiceError("invalid_request", "A batch with a tenant's adapter has sequences of another tenant.", {
        param: "adapterHash",
      });
    }
    const ids = new Set(batch.sequences.map(({ id }) => id));
    if (ids.size < batch.sequences.length) throw duplicate("The batch has two sequences of the same id.");
    for (const id of ids) if (this.#open.has(id)) throw duplicate(`A sequence of id ${id} is open already.`);
    this.#register(batch.sequences, sink);
    const { tenant } = batch.sequences[0];
    const adapterId = batch.adapterHash ? ownAdapterId(tenant, batch.adapterHash) : batch.centroidId;
    const files = [...ownAdaptersOf(batch).map((hash) => ({ tenant, hash })), ...memoriesByTenant(batch)];
    const unwritten = files.flatMap(({ tenant, hash }): [string, Uint8Array][] => {
      const bytes = this.#unwrittenOf(tenant, hash);
      return bytes ? [[ownAdapterId(tenant, hash), bytes]] : [];
    });
    this.#supervisor.send({ type: "submit", adapterId, sequences: batch.sequences, traced: null, unwritten });
  }

  /**
   * The hidden states before the tokens of each prompt from `from` on, [N, D], in the order of `sequences`. They are scheduled like
   * other sequences. Rejects with a ServiceError if one of them fails; the others are cancelled. When `signal` aborts, all are.
   */
  async hiddenStates(
    sequences: SequenceRequest[],
    from: readonly number[],
    signal: AbortSignal,
  ): Promise<Float32Array[]> {
    const traced = this.#trace({ kind: "hidden", from }, sequences, signal);
    if (await settlesWithin(traced.values, hiddenStatesMs)) return (await traced.values) as Float32Array[];
    traced.leave(unavailable(`The examples did not run within ${hiddenStatesMs} ms.`));
    return (await traced.values) as Float32Array[];
  }

  /**
   * A memory's key for each token of each prompt, [n, D] (memory/keys.ts), in the order of `sequences`. For the rest like
   * `hiddenStates`, without a limit of time.
   */
  async keysOf(sequences: SequenceRequest[], signal: AbortSignal): Promise<Int8Array[]> {
    return (await this.#trace({ kind: "keys" }, sequences, signal).values) as Int8Array[];
  }

  #trace(traced: Traced, sequences: SequenceRequest[], signal: AbortSignal) {
    this.requireServing();
    if (signal.aborted) throw cancelled(signal);
    const ids = sequences.map(({ id }) => id);
    const taken = Promise.withResolvers<TracedValues[]>();
    const open = new Set(ids);
    const sink: FrameSink = (frames) => {
      for (const frame of frames) {
        open.delete(frame.id);
        if (frame.type !== "error") continue;
        taken.reject(
          new ServiceError(frame.kind, frame.message, { retryAfterSeconds: frame.retryAfterSeconds ?? undefined }),
        );
        this.cancel([...open]);
      }
      if (open.size > 0) return;
      taken.resolve(ids.map((id) => this.#traced.get(id)!));
      for (const id of ids) this.#traced.delete(id);
    };
    this.#register(sequences, sink);
    this.#supervisor.send({ type: "submit", adapterId: null, sequences, traced, unwritten: [] });
    const cancel = () => void this.cancel([...open]);
    signal.addEventListener("abort", cancel);
    const values = taken.promise.finally(() => signal.removeEventListener("abort", cancel));
    const leave = (error: ServiceError) => {
      taken.reject(error);
      cancel();
    };
    return { values, leave };
  }

  /** Cancels the open sequences among `ids` and returns their ids; each still gets its last frame. */
  cancel(ids: readonly string[]): string[] {
    const open = ids.filter((id) => this.#open.has(id));
    if (open.length > 0) this.#supervisor.send({ type: "cancel", ids: open });
    return open;
  }

  /** Drops the engine's copy of a tenant's memory, or of all of them (null), and ends the sequences that read it. */
  dropMemory(tenant: string, hash: string | null): void {
    if (this.#supervisor.isRunning) this.#supervisor.send({ type: "dropMemory", tenant, hash });
  }

  /** Accepts no more batches, waits up to `limitMs` for open sequences, fails the rest, and ends the process. */
  async close(limitMs: number): Promise<void> {
    this.#isClosing = true;
    if (this.#open.size > 0) {
      const all = Promise.withResolvers<void>();
      this.#allEnded = all.resolve;
      const timer = setTimeout(all.resolve, limitMs);
      await all.promise;
      clearTimeout(timer);
    }
    clearInterval(this.#watch);
    this.#failOpen(unavailable(`The backend is shutting down, and did not finish within ${limitMs} ms.`));
    await this.#supervisor.close();
  }

  #register(sequences: readonly SequenceRequest[], sink: FrameSink): void {
    const sinceMs = this.#now();
    for (const { id, continuedIds } of sequences) {
      this.#open.set(id, { sink, sinceMs, isResumed: continuedIds.length > 0, lastTokenMs: null });
    }
  }

  /** Kills an engine that has finished no pass for too long although a sequence is open. */
  #killStalled(): void {
    const [oldest] = this.#open.values();
    const stalledMs = oldest ? this.#now() - Math.max(oldest.sinceMs, this.#lastPassMs) : 0;
    if (stalledMs < this.#stallMs) return;
    const how = `finished no pass for ${this.#stallMs} ms`;
    this.#supervisor.kill(how);
    this.#failOpen(unavailable(`The engine ${how} while it served this request.`));
  }

  #onMessage(message: EngineMessage): void {
    if (message.type === "progress") {
      this.#lastPassMs = this.#now();
      return;
    }
    if (message.type === "fault") {
      this.#observer.sequenceFaulted(message.description);
      return;
    }
    if (message.type === "traced") {
      if (this.#open.has(message.id)) this.#traced.set(message.id, message.values);
      return;
    }
    this.#observer.statsChanged(message.stats, this.#stats);
    this.#stats = message.stats;
    if (message.report) {
      this.#lastPassMs = this.#now();
      this.#observer.phaseRan(message.report);
    }
    this.#deliver(message.frames);
  }

  /** Calls each sink once with its frames. Frames of sequences that have already ended are dropped. */
  #deliver(frames: readonly Frame[]): void {
    const bySink = new Map<FrameSink, Frame[]>();
    for (const frame of frames) {
      const open = this.#open.get(frame.id);
      if (!open) continue;
      const { sink } = open;
      const group = bySink.get(sink);
      if (group) group.push(frame);
      else bySink.set(sink, [frame]);
      if (frame.type === "token") this.#observeToken(open);
      if (frame.type !== "done" && frame.type !== "error") continue;
      this.#open.delete(frame.id);
      this.#observer.sequenceEnded(frame);
    }
    for (const [sink, group] of bySink) sink(group);
    if (this.#open.size === 0) this.#allEnded?.();
  }

  #observeToken(open: OpenSequence): void {
    const nowMs = this.#now();
    if (open.lastTokenMs !== null) this.#observer.tokenArrived("next", nowMs - open.lastTokenMs);
    else if (!open.isResumed) this.#observer.tokenArrived("first", nowMs - open.sinceMs);
    open.lastTokenMs = nowMs;
  }

  #failOpen(error: ServiceError): void {
    this.#deliver([...this.#open.keys()].map((id) => errorFrame(id, error)));
  }

  #onEnd(): void {
    this.#stats = null;
    this.#traced.clear();
    this.#failOpen(unavailable("The engine failed while it served this request."));
  }
}

/** The tenants' own memories that a batch names, each once, with their tenants. */
export function memoriesByTenant({ sequences }: BatchRequest): { tenant: string; hash: string }[] {
  const named = sequences.flatMap(({ tenant, memories = [] }) =>
    memories.flatMap((one) => ("hash" in one ? [{ tenant, hash: one.hash }] : [])),
  );
  return [...new Map(named.map((one) => [`${one.tenant}/${one.hash}`, one])).values()];
}

function duplicate(message: string): ServiceError {
  return new ServiceError("invalid_request", message, { param: "sequences" });
}
