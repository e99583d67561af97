/** Interface to an engine in its own process. Every accepted sequence gets a last frame, even if the process ends. */
import { staticId } from "../../shared/artifacts/manifest.ts";
import {
  type BatchRequest,
  type DoneFrame,
  type ErrorFrame,
  errorFrame,
  type Frame,
  memoriesOf,
  ownAdaptersOf,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";
import type { EngineInfo, EngineSettings, EngineStats, PhaseReport } from "../engine/messages.ts";
import { requireManifest, unavailable } from "../engine/refusals.ts";
import type { Traced, TracedValues } from "../engine/traces.ts";
import type { MemorySource } from "../memory/centroid-memories.ts";
import { cancelled } from "./own-adapters/making-queue.ts";
import { type EngineMessage, EngineSupervisor, type SupervisorObserver, type SupervisorParts } from "./supervisor.ts";

export function tracedPrompt(id: string, tenant: string, promptIds: number[]): SequenceRequest {
  return {
    ...{ id, tenant, promptIds, continuedIds: [], maxTokens: 0 },
    ...{ sampling: { temperature: 0 }, promptLogprobs: false, compare: false },
  };
}

export type FrameSink = (frames: Frame[]) => void;

export interface EngineObserver extends SupervisorObserver {
  phaseRan(report: PhaseReport): void;
  /** `before` is null for the first stats of a process. */
  statsChanged(after: EngineStats, before: EngineStats | null): void;
  /** `ms` after the sequence's submission ("first") or previous token ("next"). */
  tokenArrived(which: "first" | "next", ms: number): void;
  sequenceEnded(last: DoneFrame | ErrorFrame): void;
  /** A sequence ended because it cannot be computed. `description` contains no tokens. */
  sequenceFaulted(description: string): void;
}

/** Interval of the hang check, in milliseconds; small compared with `stallMs`. */
const watchMs = 500;
/** Half of the edge's timeout for an adapter. */
const hiddenStatesMs = 300_000;

export interface EngineClientParts extends Pick<SupervisorParts, "now" | "environment" | "script"> {
  observer: EngineObserver;
  /** The engine's process is killed after this time without a finished pass, if a sequence is open. */
  stallMs: number;
  /** The bytes of an adapter or memory that the disk refused; null for a file on disk. */
  unwrittenOf?(tenant: string, hash: string): Uint8Array | null;
  /** Makes a centroid's memory if it is not on disk. Resolves to its bytes if the disk refused them. */
  bringMemory?(source: MemorySource, centroidId: string): Promise<Uint8Array | null>;
}

interface OpenSequence {
  sink: FrameSink;
  submittedMs: number;
  /** Whether another backend made the sequence's first tokens. */
  isResumed: boolean;
  lastTokenMs: number | null;
}

export class EngineClient {
  readonly #supervisor: EngineSupervisor;
  readonly #parts: EngineClientParts;
  readonly #open = new Map<string, OpenSequence>();
  /** Values of traced prompts whose last frame has not come, by id. */
  readonly #traced = new Map<string, TracedValues>();
  readonly #watch: NodeJS.Timeout;
  stats: EngineStats | null = null;
  #isClosing = false;
  #allEnded: (() => void) | null = null;
  #lastPassMs = Number.NEGATIVE_INFINITY;

  constructor(settings: EngineSettings, parts: EngineClientParts) {
    this.#parts = parts;
    this.#supervisor = new EngineSupervisor(settings, {
      ...parts,
      onMessage: (message) => this.#onMessage(message),
      onEnd: () => this.#onEnd(),
    });
    // First handles reports that came while this process was busy.
    this.#watch = setInterval(() => setImmediate(() => this.#killStalled()), watchMs);
  }

  get ready(): Promise<EngineInfo> {
    return this.#supervisor.first;
  }

  /** Kept while the engine restarts. null before the first `ready`. */
  get info(): EngineInfo | null {
    return this.#supervisor.info;
  }

  get isServing(): boolean {
    return !this.#isClosing && this.#supervisor.isRunning;
  }

  get openSequences(): number {
    return this.#open.size;
  }

  /** Throws `backend_unavailable` while the engine is starting, restarting or closing. */
  requireServing(): EngineInfo {
    if (this.#isClosing) throw unavailable("The backend is shutting down.");
    return this.#supervisor.requireRunning();
  }

  /** Throws a ServiceError if the whole batch is refused. */
  submit(batch: BatchRequest, sink: FrameSink): void {
    const { manifest } = requireManifest(this.requireServing(), batch.manifestHash);
    const { centroidId } = batch;
    const [{ tenant }] = batch.sequences;
    const isServed = centroidId === staticId ? manifest.static : manifest.centroids.some(({ id }) => id === centroidId);
    if (centroidId !== null && !isServed)
      throw invalid("centroidId", `There is no centroid ${centroidId} among ${manifest.centroids.length}.`);
    if (ownAdaptersOf(batch).length > 0 && batch.sequences.some((one) => one.tenant !== tenant)) {
      throw invalid("adapterHash", "A batch with a tenant's adapter has sequences of another tenant.");
    }
    const ids = new Set(batch.sequences.map(({ id }) => id));
    if (ids.size < batch.sequences.length) throw invalid("sequences", "The batch has two sequences of the same id.");
    for (const id of ids) if (this.#open.has(id)) throw invalid("sequences", `A sequence of id ${id} is open already.`);
    this.#register(batch.sequences, sink);
    const adapterId = batch.adapterHash ? ownAdapterId(tenant, batch.adapterHash) : batch.centroidId;
    const files = [...ownAdaptersOf(batch).map((hash) => ({ tenant, hash })), ...memoriesByTenant(batch)];
    const unwritten = files.flatMap(({ tenant, hash }): [string, Uint8Array][] => {
      const bytes = this.#parts.unwrittenOf?.(tenant, hash);
      return bytes ? [[ownAdapterId(tenant, hash), bytes]] : [];
    });
    this.#supervisor.send({ type: "submit", adapterId, sequences: batch.sequences, traced: null, unwritten });
  }

  /** Hidden states [N, D] before the tokens of prompt i from index `from[i]` on. If a prompt fails or is late, cancels all and rejects. */
  async hiddenStates(
    sequences: SequenceRequest[],
    from: readonly number[],
    signal: AbortSignal,
  ): Promise<Float32Array[]> {
    return (await this.#trace({ kind: "hidden", from }, sequences, signal, hiddenStatesMs)) as Float32Array[];
  }

  /** A key for each token of each prompt, [n, D]. Has no timeout. */
  async keysOf(sequences: SequenceRequest[], signal: AbortSignal): Promise<Int8Array[]> {
    return (await this.#trace({ kind: "keys" }, sequences, signal)) as Int8Array[];
  }

  async #trace(
    traced: Traced,
    sequences: SequenceRequest[],
    signal: AbortSignal,
    limitMs?: number,
  ): Promise<TracedValues[]> {
    this.requireServing();
    if (signal.aborted) throw cancelled(signal);
    const ids = sequences.map(({ id }) => id);
    const taken = Promise.withResolvers<TracedValues[]>();
    const open = new Set(ids);
    const fail = (error: ServiceError) => {
      taken.reject(error);
      this.cancel([...open]);
    };
    this.#register(sequences, (frames) => {
      for (const frame of frames) {
        open.delete(frame.id);
        if (frame.type !== "error") continue;
        const { kind, message, retryAfterSeconds } = frame;
        fail(new ServiceError(kind, message, { retryAfterSeconds: retryAfterSeconds ?? undefined }));
      }
      if (open.size > 0) return;
      taken.resolve(ids.map((id) => this.#traced.get(id)!));
      for (const id of ids) this.#traced.delete(id);
    });
    this.#supervisor.send({ type: "submit", adapterId: null, sequences, traced, unwritten: [] });
    const leave = () => fail(cancelled(signal));
    signal.addEventListener("abort", leave);
    const giveUp = () => fail(unavailable(`The examples did not run within ${limitMs} ms.`));
    const timer = limitMs === undefined ? undefined : setTimeout(giveUp, limitMs);
    try {
      return await taken.promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", leave);
    }
  }

  /** Returns the ids among `ids` that were open. Each sequence still gets its last frame. */
  cancel(ids: readonly string[]): string[] {
    const open = ids.filter((id) => this.#open.has(id));
    if (open.length > 0) this.#supervisor.send({ type: "cancel", ids: open });
    return open;
  }

  /** If `hash` is null, drops all memories of the tenant. Sequences that read a dropped memory end in an error. */
  dropMemory(tenant: string, hash: string | null): void {
    if (this.#supervisor.isRunning) this.#supervisor.send({ type: "dropMemory", tenant, hash });
  }

  /** Waits up to `limitMs` for open sequences, then fails them and ends the process. */
  async close(limitMs: number): Promise<void> {
    this.#isClosing = true;
    if (this.#open.size > 0) {
      const all = Promise.withResolvers<void>();
      this.#allEnded = all.resolve;
      await settlesWithin(all.promise, limitMs);
    }
    clearInterval(this.#watch);
    this.#failOpen(unavailable(`The backend is shutting down, and did not finish within ${limitMs} ms.`));
    await this.#supervisor.close();
  }

  #register(sequences: readonly SequenceRequest[], sink: FrameSink): void {
    const submittedMs = this.#parts.now();
    for (const { id, continuedIds } of sequences) {
      this.#open.set(id, { sink, submittedMs, isResumed: continuedIds.length > 0, lastTokenMs: null });
    }
  }

  #killStalled(): void {
    const { now, stallMs } = this.#parts;
    const [oldest] = this.#open.values();
    const stalledMs = oldest ? now() - Math.max(oldest.submittedMs, this.#lastPassMs) : 0;
    if (stalledMs < stallMs) return;
    const how = `finished no pass for ${stallMs} ms`;
    this.#supervisor.kill(how);
    this.#failOpen(unavailable(`The engine ${how} while it served this request.`));
  }

  #onMessage(message: EngineMessage): void {
    const { observer, now } = this.#parts;
    if (message.type === "progress") this.#lastPassMs = now();
    else if (message.type === "fault") observer.sequenceFaulted(message.description);
    else if (message.type === "traced") {
      if (this.#open.has(message.id)) this.#traced.set(message.id, message.values);
    } else if (message.type === "memoryWanted") void this.#bringMemory(message.centroidId);
    else {
      observer.statsChanged(message.stats, this.stats);
      this.stats = message.stats;
      if (message.report) {
        this.#lastPassMs = now();
        observer.phaseRan(message.report);
      }
      this.#deliver(message.frames);
    }
  }

  async #bringMemory(centroidId: string): Promise<void> {
    const bring = this.#parts.bringMemory ?? (() => Promise.reject(unavailable("No memories are made here.")));
    const made = await bring(this.info!, centroidId).catch(toServiceError);
    if (!this.#supervisor.isRunning) return;
    const isError = made instanceof ServiceError;
    this.#supervisor.send({
      ...{ type: "memoryBrought", centroidId, unwritten: isError ? null : made },
      error: isError ? errorFrame("", made) : null,
    });
  }

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
      this.#parts.observer.sequenceEnded(frame);
    }
    for (const [sink, group] of bySink) sink(group);
    if (this.#open.size === 0) this.#allEnded?.();
  }

  #observeToken(open: OpenSequence): void {
    const { observer, now } = this.#parts;
    const nowMs = now();
    if (open.lastTokenMs !== null) observer.tokenArrived("next", nowMs - open.lastTokenMs);
    else if (!open.isResumed) observer.tokenArrived("first", nowMs - open.submittedMs);
    open.lastTokenMs = nowMs;
  }

  #failOpen(error: ServiceError): void {
    this.#deliver([...this.#open.keys()].map((id) => errorFrame(id, error)));
  }

  #onEnd(): void {
    this.stats = null;
    this.#traced.clear();
    this.#failOpen(unavailable("The engine failed while it served this request."));
  }
}

/** Memories of tenants that the batch's sequences read. */
export function memoriesByTenant({ sequences }: BatchRequest): { tenant: string; hash: string }[] {
  const named = sequences.flatMap((one) =>
    memoriesOf({ sequences: [one] }).map((hash) => ({ tenant: one.tenant, hash })),
  );
  return [...new Map(named.map((one) => [`${one.tenant}/${one.hash}`, one])).values()];
}

function invalid(param: string, message: string): ServiceError {
  return new ServiceError("invalid_request", message, { param });
}
