/**
 * The sets of artifacts that this backend serves, side by side: each micro-batch goes to the set of its manifest. Which
 * sets those are is set-policy.ts's decision and the follower's work.
 */
import type { ServiceError } from "../../../shared/errors.ts";
import type { EngineClient } from "../client.ts";
import type { FitClient } from "../instant/fit-client.ts";
import type { EngineInfo } from "../messages.ts";
import { unavailable } from "../refusals.ts";
import type { EngineStats } from "../reports.ts";
import type { HeldSet } from "./set-policy.ts";

/** One set at work (start-set.ts). */
export interface ServingSet {
  info: Pick<EngineInfo, "manifestHash">;
  engine: Pick<
    EngineClient,
    "submit" | "cancel" | "hiddenStates" | "info" | "isServing" | "requireServing" | "openSequences" | "stats"
  >;
  fitter: Pick<FitClient, "fit" | "requireRoom">;
  /** Takes no more, waits so long for what is open, and ends its processes. */
  close(limitMs: number): Promise<void>;
}

interface Held {
  set: ServingSet;
  /** When it was asked for, or wanted, last. */
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

  /** What is served first of all; null where nothing is, yet or any more. */
  get info(): EngineInfo | null {
    return this.#set(this.#first)?.engine.info ?? null;
  }

  /**
   * What is served first of all, or, while the engine of that set restarts, the newest of the others whose engine runs. Throws
   * a ServiceError "backend_unavailable" where no batch is taken.
   */
  requireServing(): EngineInfo {
    const first = this.#set(this.#first);
    if (!first || this.#isClosing) throw this.#unavailable();
    return (first.engine.isServing ? first : (this.#set(this.serving.at(-1) ?? null) ?? first)).engine.requireServing();
  }

  /** Hashes of all manifests that are held, also of those whose engine restarts. */
  get manifests(): string[] {
    return [...this.#held.keys()];
  }

  /** Hashes of the manifests whose batches would be taken now. */
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
   * The set of a manifest; for an unknown one that which is served first, which will refuse it. Throws a ServiceError
   * where there is none.
   */
  of(manifestHash: string): ServingSet {
    const set = this.#set(manifestHash) ?? this.#set(this.#first);
    if (set) {
      this.used(manifestHash);
      return set;
    }
    throw this.#unavailable();
  }

  /** Cancels what is open of `ids`, and returns those. */
  cancel(ids: readonly string[]): string[] {
    return [...this.#held.values()].flatMap(({ set }) => set.engine.cancel(ids));
  }

  /** Serves a set, first of all from now on. */
  adopt(set: ServingSet): void {
    const { manifestHash } = set.info;
    this.#held.set(manifestHash, { set, usedMs: this.#now() });
    this.#first = manifestHash;
  }

  /** Serves first of all a set that is held already. */
  prefer(manifestHash: string): void {
    if (this.#held.has(manifestHash)) this.#first = manifestHash;
  }

  /** Somebody wants it, now. */
  used(manifestHash: string): void {
    const held = this.#held.get(manifestHash);
    if (held) held.usedMs = this.#now();
  }

  /** Ends a set that is idle. Returns false, and lets it go on, where it is not. */
  async retire(manifestHash: string): Promise<boolean> {
    const set = this.#set(manifestHash);
    if (!set || set.engine.openSequences > 0) return false;
    this.#held.delete(manifestHash);
    if (this.#first === manifestHash) this.#first = this.manifests.at(-1) ?? null;
    await set.close(0);
    return true;
  }

  /** Ends all; from now on they refuse what comes. */
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
