/**
 * Which artifacts this isolate serves. It holds two sets at most: the one that is served, and the one that was served
 * before or will be next. A request keeps the set that it began with, so a switch breaks none.
 *
 * The pointer is read again behind a request every few seconds. A set becomes the served one only when it is whole and
 * checked, and every ready backend serves it, too, or, where some never will, one of them does: the first that has it
 * could not take everybody's requests alone. Whatever goes wrong on the way is told, and what is served stays.
 * Not here: where sets come from (artifact-bucket.ts, static assets).
 */
import { currentOf, previousOf } from "../../shared/artifacts/bucket.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import type { Holding } from "../dispatch/routing.ts";
import { steadyClock } from "../platform/clock.ts";
import { Refreshed, type RefreshedParts } from "../platform/refreshed.ts";
import type { ArtifactSource } from "./artifact-bucket.ts";
import type { Artifacts } from "./artifacts.ts";

export const artifactLimits = {
  /** How old the last look at the pointer may be; the next request has it looked at again, and waits for nothing. */
  refreshMs: 3000,
  /** Longest time without a look after which a request is still served at once; an idle edge looks before it answers. */
  staleMs: 10_000,
  /** Timeout for one look at the pointer by a request that waits for it, in milliseconds. */
  patienceMs: 2000,
  /** A set that was refused is not read again until then; the bucket may have been mended. */
  refusedMs: 30_000,
  /** After so long it is enough that some ready backend has a set, and not all of them. */
  spreadMs: 30_000,
  /** A backend that does not say within this what it has is taken not to be ready. */
  holdingMs: 500,
  /** A look that takes longer died with the request that began it. */
  lookMs: 20_000,
  /** Timeout for loading the first set. */
  openMs: 10_000,
};

/** What becomes of sets, for metrics, logs and tests. */
export interface ArtifactEvent {
  event: /** `manifest` is served now, after `from` (null: nothing). */
    | "artifacts_switched"
    /** The set, or where `manifest` is null the pointer, cannot be had as it should be. */
    | "artifacts_refused"
    /** It is whole here, and not at the backends yet. */
    | "artifacts_awaited";
  manifest: string | null;
  from?: string | null;
  cause?: unknown;
}

export interface ArtifactSetsParts extends RefreshedParts {
  /** null where nothing can be published: the assets are served. */
  source: ArtifactSource | null;
  /** What is served where nothing was published, and in need. */
  assets(): Promise<Artifacts>;
  /** How many of the ready backends serve batches of this manifest. */
  holding(manifestHash: string): Promise<Holding>;
  observe(event: ArtifactEvent): void;
}

export class ArtifactSets {
  readonly #parts: ArtifactSetsParts;
  #served: Artifacts | null = null;
  #other: Artifacts | null = null;
  readonly #opening: Refreshed<Artifacts>;
  readonly #looking: Refreshed<void>;
  #lookedMs = 0;
  #refusal: { manifestHash: string; untilMs: number } | null = null;
  /** The set that some backends have, and since when. */
  #spreading: { manifestHash: string; sinceMs: number } | null = null;

  constructor(parts: ArtifactSetsParts) {
    this.#parts = { ...parts, now: steadyClock(parts.now) };
    this.#opening = new Refreshed(parts, { limitMs: artifactLimits.openMs, isShared: true });
    this.#looking = new Refreshed(parts, { limitMs: artifactLimits.lookMs, isShared: true });
  }

  /** False until the first set is loaded. */
  get isLoaded(): boolean {
    return this.#served !== null;
  }

  /** The set to begin a request with. Rejects where there never was one; the next caller tries again. */
  readonly current = async (): Promise<Artifacts> => {
    const { source, now } = this.#parts;
    if (!this.#served) return await this.#opening.get(() => this.#firstSet());
    const ageMs = now() - this.#lookedMs;
    if (!source || ageMs < artifactLimits.refreshMs) return this.#served;
    const isStale = ageMs >= artifactLimits.staleMs;
    if (!isStale && this.#looking.isLoading) return this.#served;
    const look = this.#looking.get(() => this.#lookAgain(source)).catch(() => undefined);
    if (isStale) await settlesWithin(look, artifactLimits.patienceMs);
    return this.#served;
  };

  /** What the pointer says, else what it said before, else the assets: of those that are whole, what most backends have. */
  async #firstSet(): Promise<Artifacts> {
    const { source, assets, holding, now, observe } = this.#parts;
    const pointer =
      (await source?.pointer().catch((cause) => {
        observe({ event: "artifacts_refused", manifest: null, cause });
        return null;
      })) ?? null;
    const published = pointer ? [currentOf(pointer), previousOf(pointer)].filter((hash) => hash !== null) : [];
    const whole: Partial<Record<Holding, Artifacts>> = {};
    let failure: unknown = null;
    for (const hash of [...published, null]) {
      const loading = hash === null ? assets() : this.#load(source!, hash);
      // The backends are asked while it loads.
      const asked = hash === null ? null : holding(hash);
      const set = await loading.catch((cause) => {
        failure = cause;
        return null;
      });
      if (!set) continue;
      // Where there is no choice nobody is asked.
      const share = published.length === 0 ? "all" : await (asked ?? holding(set.manifestHash));
      whole[share] ??= set;
      if (share === "all") break;
    }
    const chosen = whole.all ?? whole.some ?? whole.none;
    if (!chosen) throw failure;
    // A load that took too long does not replace what another request has loaded.
    if (this.#served) return this.#served;
    this.#served = chosen;
    this.#lookedMs = now();
    observe({ event: "artifacts_switched", manifest: chosen.manifestHash, from: null });
    return chosen;
  }

  /** Never rejects. */
  async #lookAgain(source: ArtifactSource): Promise<void> {
    const { observe } = this.#parts;
    try {
      const pointer = await source.pointer();
      // What is served stays where the pointer is gone.
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
      this.#lookedMs = this.#parts.now();
    }
  }

  async #isSpread(manifestHash: string): Promise<boolean> {
    const share = await this.#parts.holding(manifestHash);
    if (share === "none") this.#spreading = null;
    if (share !== "some") return share === "all";
    const nowMs = this.#parts.now();
    if (this.#spreading?.manifestHash !== manifestHash) this.#spreading = { manifestHash, sinceMs: nowMs };
    return nowMs - this.#spreading.sinceMs >= artifactLimits.spreadMs;
  }

  /** Rejects with RefusedSet for one that is no good, or was not a moment ago. */
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

/** It was told already. */
class RefusedSet extends Error {}
