/**
 * The set of artifacts that this isolate serves. A request uses one set to its end.
 * The isolate switches to a published set once the set is loaded and all ready backends serve it. After a failure, the isolate continues
 * with its current set.
 */
import { currentOf, previousOf } from "../../shared/artifacts/bucket.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import type { Holding } from "../dispatch/routing.ts";
import { steadyClock } from "../platform/clock.ts";
import { Refreshed, type RefreshedParts } from "../platform/refreshed.ts";
import type { ArtifactSource } from "./artifact-bucket.ts";
import { type Artifacts, heldSet } from "./artifacts.ts";

export const artifactLimits = {
  /** Age of the last pointer check at which a request starts a new check in the background. */
  refreshMs: 3000,
  /** Age of the last pointer check at which a request waits for a new check. */
  staleMs: 10_000,
  /** Timeout of a request's wait for a check. The request then uses the served set. */
  waitMs: 2000,
  /** Pause before an invalid set is loaded again. */
  refusedMs: 30_000,
  /** Time for which a switch waits until all ready backends have the set. Later, one backend is enough. */
  spreadMs: 30_000,
  /** Timeout for a backend's answer about its sets. A slower backend counts as not ready. */
  holdingMs: 500,
  /** Age of a running check at which another check may start, because the first check's request may have died. */
  checkMs: 20_000,
  openMs: 10_000,
};

export interface ArtifactEvent {
  event: /** The isolate serves `manifest` now, after `from` (null: nothing). */
    | "artifacts_switched"
    /** The set cannot be loaded or, if `manifest` is null, the pointer cannot be read. */
    | "artifacts_refused"
    /** The set is loaded here, but not at enough backends yet. */
    | "artifacts_awaited";
  manifest: string | null;
  from?: string | null;
  cause?: unknown;
}

interface ArtifactSetsParts extends RefreshedParts {
  /** null: the deployment has no bucket, and serves the set in its static assets. */
  source: ArtifactSource | null;
  /** The set in the static assets. Served if no set was published or can be loaded. */
  assets(): Promise<Artifacts>;
  holding(manifestHash: string): Promise<Holding>;
  observe(event: ArtifactEvent): void;
}

export class ArtifactSets {
  readonly #parts: ArtifactSetsParts;
  #served: Artifacts | null = null;
  #other: Artifacts | null = null;
  readonly #opening: Refreshed<Artifacts>;
  readonly #checking: Refreshed<void>;
  #checkedMs = 0;
  #refusal: { manifestHash: string; untilMs: number } | null = null;
  /** A new set that only some backends have, and the time at which this isolate noticed the set. */
  #spreading: { manifestHash: string; sinceMs: number } | null = null;

  constructor(parts: ArtifactSetsParts) {
    this.#parts = { ...parts, now: steadyClock(parts.now) };
    this.#opening = new Refreshed(parts, { limitMs: artifactLimits.openMs, isShared: true });
    this.#checking = new Refreshed(parts, { limitMs: artifactLimits.checkMs, isShared: true });
  }

  get isLoaded(): boolean {
    return this.#served !== null;
  }

  /** The set to begin a request with. Rejects if no set could be loaded; the next caller tries again. */
  readonly current = async (): Promise<Artifacts> => {
    const { source, now } = this.#parts;
    if (!this.#served) return await this.#opening.get(() => this.#firstSet());
    const ageMs = now() - this.#checkedMs;
    if (!source || ageMs < artifactLimits.refreshMs) return this.#served;
    const isStale = ageMs >= artifactLimits.staleMs;
    if (!isStale && this.#checking.isLoading) return this.#served;
    const check = this.#checking.get(() => this.#check(source)).catch(() => undefined);
    if (isStale) await settlesWithin(check, artifactLimits.waitMs);
    return this.#served;
  };

  /** The published set or its predecessor, by manifest hash. null for any other set, or if it cannot be loaded. */
  readonly of = async (manifestHash: string): Promise<Artifacts | null> => {
    const held = [this.#served, this.#other].find((set) => set?.manifestHash === manifestHash) ?? heldSet(manifestHash);
    if (held) return held;
    const { source, assets } = this.#parts;
    const pointer = await source?.pointer().catch(() => null);
    if (!pointer) return null;
    const previous = previousOf(pointer);
    if ([currentOf(pointer), previous].includes(manifestHash)) {
      return this.#load(source!, manifestHash).catch(() => null);
    }
    // Before the first publication, the set in the assets was served.
    const deployed = previous === null ? await assets().catch(() => null) : null;
    return deployed?.manifestHash === manifestHash ? deployed : null;
  };

  /** Loads the first set to serve. Prefers a set that all ready backends serve, then a set that some serve, then any valid set. */
  async #firstSet(): Promise<Artifacts> {
    const { source, assets, holding, now, observe } = this.#parts;
    const pointer =
      (await source?.pointer().catch((cause) => {
        observe({ event: "artifacts_refused", manifest: null, cause });
        return null;
      })) ?? null;
    const published = pointer ? [currentOf(pointer), previousOf(pointer)].filter((hash) => hash !== null) : [];
    const valid: Partial<Record<Holding, Artifacts>> = {};
    let failure: unknown = null;
    for (const hash of [...published, null]) {
      const loading = hash === null ? assets() : this.#load(source!, hash);
      // The backends are called while the set loads.
      const checking = hash === null ? null : holding(hash);
      const set = await loading.catch((cause) => {
        failure = cause;
        return null;
      });
      if (!set) continue;
      // Without published sets there is only one candidate, so the backends are not called.
      const backends = published.length === 0 ? "all" : await (checking ?? holding(set.manifestHash));
      valid[backends] ??= set;
      if (backends === "all") break;
    }
    const chosen = valid.all ?? valid.some ?? valid.none;
    if (!chosen) throw failure;
    // Another request may have loaded a set meanwhile. That set stays.
    if (this.#served) return this.#served;
    this.#served = chosen;
    this.#checkedMs = now();
    observe({ event: "artifacts_switched", manifest: chosen.manifestHash, from: null });
    return chosen;
  }

  /** Never rejects. */
  async #check(source: ArtifactSource): Promise<void> {
    const { observe } = this.#parts;
    try {
      const pointer = await source.pointer();
      // If the pointer is gone, the isolate continues with the served set.
      const wanted = pointer && currentOf(pointer);
      if (!wanted || wanted === this.#served!.manifestHash) return;
      if (this.#other?.manifestHash !== wanted) this.#other = await this.#load(source, wanted);
      if (!(await this.#isSpread(wanted))) {
        observe({ event: "artifacts_awaited", manifest: wanted });
        return;
      }
      const before = this.#served!;
      this.#served = this.#other;
      this.#other = before;
      observe({ event: "artifacts_switched", manifest: wanted, from: before.manifestHash });
    } catch (cause) {
      if (!(cause instanceof RefusedSet)) observe({ event: "artifacts_refused", manifest: null, cause });
    } finally {
      this.#checkedMs = this.#parts.now();
    }
  }

  async #isSpread(manifestHash: string): Promise<boolean> {
    const backends = await this.#parts.holding(manifestHash);
    if (backends === "none") this.#spreading = null;
    if (backends !== "some") return backends === "all";
    const nowMs = this.#parts.now();
    if (this.#spreading?.manifestHash !== manifestHash) this.#spreading = { manifestHash, sinceMs: nowMs };
    return nowMs - this.#spreading.sinceMs >= artifactLimits.spreadMs;
  }

  /** Rejects with RefusedSet if the set is invalid, or was invalid within the last `refusedMs`. */
  async #load(source: ArtifactSource, manifestHash: string): Promise<Artifacts> {
    const { now, observe } = this.#parts;
    if (this.#refusal?.manifestHash === manifestHash && now() < this.#refusal.untilMs) throw new RefusedSet();
    try {
      const set = await source.load(manifestHash);
      this.#refusal = null;
      return set;
    } catch (cause) {
      this.#refusal = { manifestHash, untilMs: now() + artifactLimits.refusedMs };
      observe({ event: "artifacts_refused", manifest: manifestHash, cause });
      throw new RefusedSet();
    }
  }
}

/** An invalid set that has already been reported. */
class RefusedSet extends Error {}
