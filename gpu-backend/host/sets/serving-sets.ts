/**
 * The sets of artifacts that this backend serves side by side: how one starts, which of them start and end, and the set of each
 * micro-batch. Not here: when they are compared with what is published (follower.ts).
 */
import type { ServiceError } from "../../../shared/errors.ts";
import { readTokenizer } from "../../engine/artifacts.ts";
import type { EngineInfo, EngineSettings, EngineStats } from "../../engine/messages.ts";
import { unavailable } from "../../engine/refusals.ts";
import { EngineClient, type EngineClientParts } from "../client.ts";
import type { DocumentTokenizer } from "../memories/document-windows.ts";
import { FitClient } from "../own-adapters/fit-client.ts";

/** A set that is served, with its processes. */
export interface ServingSet {
  info: Pick<EngineInfo, "manifestHash">;
  engine: Pick<
    EngineClient,
    | "submit"
    | "cancel"
    | "hiddenStates"
    | "keysOf"
    | "dropMemory"
    | "info"
    | "isServing"
    | "requireServing"
    | "openSequences"
    | "stats"
  >;
  fitter: Pick<FitClient, "fit">;
  tokenizer(): Promise<DocumentTokenizer>;
  /** Accepts no more batches, waits up to `limitMs` for open sequences, and ends its processes. */
  close(limitMs: number): Promise<void>;
}

interface Held {
  set: ServingSet;
  /** Time of its last batch, or at which it was last the wanted set. */
  usedMs: number;
}

export class ServingSets {
  readonly #held = new Map<string, Held>();
  readonly #now: () => number;
  #first: string | null = null;
  #isClosing = false;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** The preferred set; null before the first one serves, and after the last one has ended. */
  get info(): EngineInfo | null {
    return this.#set(this.#first)?.engine.info ?? null;
  }

  /**
   * The preferred set or, while its engine restarts, the newest of the others whose engine runs. Throws a ServiceError
   * "backend_unavailable" if there is none.
   */
  requireServing(): EngineInfo {
    const first = this.#set(this.#first);
    if (!first || this.#isClosing) throw this.#unavailable();
    return (first.engine.isServing ? first : (this.#set(this.serving.at(-1) ?? null) ?? first)).engine.requireServing();
  }

  /** Manifest hashes of all sets, those whose engine restarts included. */
  get manifests(): string[] {
    return [...this.#held.keys()];
  }

  /** Manifest hashes of the sets that accept batches now. */
  get serving(): string[] {
    return this.held.flatMap(({ manifestHash, isServing }) => (isServing ? [manifestHash] : []));
  }

  get held(): HeldSet[] {
    return [...this.#held].map(([manifestHash, { set, usedMs }]) => ({
      ...{ manifestHash, usedMs },
      openSequences: set.engine.openSequences,
      isServing: set.engine.isServing,
    }));
  }

  get openSequences(): number {
    return this.held.reduce((sum, { openSequences }) => sum + openSequences, 0);
  }

  get stats(): EngineStats[] {
    return [...this.#held.values()].flatMap(({ set }) => set.engine.stats ?? []);
  }

  /**
   * The set of a manifest; for an unknown one the preferred set, whose engine refuses the batch with a reason. Throws a
   * ServiceError if there is no set.
   */
  of(manifestHash: string): ServingSet {
    const set = this.#set(manifestHash) ?? this.#set(this.#first);
    if (set) {
      this.markUsed(manifestHash);
      return set;
    }
    throw this.#unavailable();
  }

  /** Cancels the open sequences among `ids`, and returns their ids. */
  cancel(ids: readonly string[]): string[] {
    return [...this.#held.values()].flatMap(({ set }) => set.engine.cancel(ids));
  }

  /** Lets every engine drop its copy of a tenant's memory, or of all of them (null). */
  dropMemory(tenant: string, hash: string | null): void {
    for (const { set } of this.#held.values()) set.engine.dropMemory(tenant, hash);
  }

  /** Adds a set, and prefers it from now on. */
  adopt(set: ServingSet): void {
    const { manifestHash } = set.info;
    this.#held.set(manifestHash, { set, usedMs: this.#now() });
    this.#first = manifestHash;
  }

  /** Prefers one of the sets from now on. */
  prefer(manifestHash: string): void {
    if (this.#held.has(manifestHash)) this.#first = manifestHash;
  }

  /** Restarts the grace period of a set. */
  markUsed(manifestHash: string): void {
    const held = this.#held.get(manifestHash);
    if (held) held.usedMs = this.#now();
  }

  /** Ends a set. Returns false, and does nothing, if it has an open sequence. */
  async retire(manifestHash: string): Promise<boolean> {
    const set = this.#set(manifestHash);
    if (!set || set.engine.openSequences > 0) return false;
    this.#held.delete(manifestHash);
    if (this.#first === manifestHash) this.#first = this.manifests.at(-1) ?? null;
    await set.close(0);
    return true;
  }

  /** Accepts no more batches, and closes all sets. */
  async close(limitMs: number): Promise<void> {
    this.#isClosing = true;
    await Promise.all([...this.#held.values()].map(({ set }) => set.close(limitMs)));
  }

  #unavailable(): ServiceError {
    return unavailable(this.#isClosing ? "The backend is shutting down." : "The engine is starting.");
  }

  #set(manifestHash: string | null): ServingSet | null {
    return (manifestHash && this.#held.get(manifestHash)?.set) || null;
  }
}

export interface HeldSet {
  manifestHash: string;
  openSequences: number;
  /** Time of its last batch, or at which it was last the wanted set. */
  usedMs: number;
  /** False while its engine restarts. */
  isServing: boolean;
}

export interface SetLimits {
  /** Maximum number of sets side by side; each has its own session and memory. */
  sets: number;
  /** Milliseconds for which an idle set that is no longer wanted is kept after its last use. */
  graceMs: number;
}

export interface SetPlan {
  /** True if the wanted set is to be started, after those of `retire` have ended. */
  start: boolean;
  /** Hashes of manifests. */
  retire: string[];
}

export function planSets(held: readonly HeldSet[], wanted: string, nowMs: number, limits: SetLimits): SetPlan {
  const idle = held.filter(({ manifestHash, openSequences }) => manifestHash !== wanted && openSequences === 0);
  const current = held.find(({ manifestHash }) => manifestHash === wanted);
  if (current) {
    const done = idle.filter(({ usedMs }) => current.isServing && nowMs - usedMs >= limits.graceMs);
    return { start: false, retire: done.map(({ manifestHash }) => manifestHash) };
  }
  if (held.length < limits.sets) return { start: true, retire: [] };
  // An idle set makes room, but the last set that is held serves until the new one does.
  if (idle.length === 0 || held.length === 1) return { start: false, retire: [] };
  const [oldest] = idle.toSorted((a, b) => Number(a.isServing) - Number(b.isServing) || a.usedMs - b.usedMs);
  return { start: true, retire: [oldest.manifestHash] };
}

export interface StartedSet extends ServingSet {
  info: EngineInfo;
}

/** Resolves once the engine has generated a token; rejects if the folder is invalid or the engine does not start in time. */
export async function startSet(settings: EngineSettings, parts: EngineClientParts): Promise<StartedSet> {
  const { modelDirectory, artifactsDirectory } = settings;
  const engine = new EngineClient(settings, parts);
  try {
    const info = await engine.ready;
    const fitter = new FitClient({ modelDirectory, artifactsDirectory }, { environment: parts.environment });
    let tokenizer: Promise<DocumentTokenizer> | null = null;
    return {
      ...{ info, engine, fitter },
      // Only documents need it in this process.
      tokenizer() {
        tokenizer ??= readTokenizer(artifactsDirectory, info.manifest).catch((error) => {
          tokenizer = null;
          throw error;
        });
        return tokenizer;
      },
      async close(limitMs) {
        await engine.close(limitMs);
        await fitter.close();
      },
    };
  } catch (error) {
    await engine.close(0);
    throw error;
  }
}
