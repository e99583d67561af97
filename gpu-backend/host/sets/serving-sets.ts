/**
 * The sets of artifacts that this backend serves side by side. Each micro-batch goes to the set of its manifest. Not here: which
 * sets start and end (set-policy.ts), and when (follower.ts).
 */
import type { ServiceError } from "../../../shared/errors.ts";
import type { EngineInfo } from "../../engine/messages.ts";
import { unavailable } from "../../engine/refusals.ts";
import type { EngineStats } from "../../engine/reports.ts";
import type { EngineClient } from "../client.ts";
import type { FitClient } from "../own-adapters/fit-client.ts";
import type { HeldSet } from "./set-policy.ts";

/** A set that is served, with its processes (start-set.ts). */
export interface ServingSet {
  info: Pick<EngineInfo, "manifestHash">;
  engine: Pick<
    EngineClient,
    "submit" | "cancel" | "hiddenStates" | "info" | "isServing" | "requireServing" | "openSequences" | "stats"
  >;
  fitter: Pick<FitClient, "fit">;
  /** Accepts no more batches, waits up to `limitMs` for open sequences, and ends its processes. */
  close(limitMs: number): Promise<void>;
}

interface Held {
  set: ServingSet;
  /** Time at which it was last asked for or wanted. */
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
   * The set of a manifest, or the preferred set if the manifest is unknown: its engine refuses the batch with a reason. Throws a
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
