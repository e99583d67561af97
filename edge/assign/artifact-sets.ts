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
import type { Holding } from "../backend/backends.ts";
import type { ArtifactSource } from "./artifact-bucket.ts";
import { type Artifacts, loadOnce } from "./artifacts.ts";

export const artifactLimits = {
  /** How old the last look at the pointer may be; the next request has it looked at again, and waits for nothing. */
  refreshMs: 3000,
  /** Longest time without a look after which a request is still served at once; an idle edge looks before it answers. */
  staleMs: 10_000,
  /** So long at most. */
  patienceMs: 2000,
  /** A set that was refused is not read again until then; the bucket may have been mended. */
  refusedMs: 30_000,
  /** After so long it is enough that some ready backend has a set, and not all of them. */
  spreadMs: 30_000,
  /** A backend that does not say within this what it has is taken not to be ready. */
  holdingMs: 500,
  /** A look that takes longer died with the request that began it. */
  lookMs: 20_000,
};

export interface ArtifactObserver {
  switched(from: string | null, to: string): void;
  /** The set, or where `manifestHash` is null the pointer, cannot be had as it should be. */
  refused(manifestHash: string | null, cause: unknown): void;
  /** It is whole here, and not at the backends yet. */
  awaited(manifestHash: string): void;
}

export interface ArtifactSetsParts {
  /** null where nothing can be published: the assets are served. */
  source: ArtifactSource | null;
  /** What is served where nothing was published, and in need. */
  assets(): Promise<Artifacts>;
  /** How many of the ready backends serve batches of this manifest. */
  holding(manifestHash: string): Promise<Holding>;
  /** A clock in milliseconds. */
  now(): number;
  /** Holds a promise that nobody awaits. */
  background(work: Promise<void>): void;
  observer: ArtifactObserver;
}

export class ArtifactSets {
  readonly #parts: ArtifactSetsParts;
  #served: Artifacts | null = null;
  #other: Artifacts | null = null;
  #look: { sinceMs: number; work: Promise<void> } | null = null;
  #lookedMs = 0;
  #refusal: { manifestHash: string; untilMs: number } | null = null;
  /** The set that some backends have, and since when. */
  #spreading: { manifestHash: string; sinceMs: number } | null = null;

  readonly #open = loadOnce(() => {
    const opening = this.#firstSet();
    // Others wait for it: it must outlive the request that began it.
    this.#parts.background(opening.then(ignore, ignore));
    return opening;
  });

  constructor(parts: ArtifactSetsParts) {
    this.#parts = parts;
  }

  /** The set to begin a request with. Rejects where there never was one; the next caller tries again. */
  readonly current = async (): Promise<Artifacts> => {
    const { source, now } = this.#parts;
    if (!this.#served) return await this.#open();
    const ageMs = now() - this.#lookedMs;
    if (!source || ageMs < artifactLimits.refreshMs) return this.#served;
    const look = this.#startLook(source);
    if (ageMs >= artifactLimits.staleMs) await settlesWithin(look, artifactLimits.patienceMs);
    return this.#served;
  };

  /** What the pointer says, else what it said before, else the assets: of those that are whole, what most backends have. */
  async #firstSet(): Promise<Artifacts> {
    const { source, assets, holding, now, observer } = this.#parts;
    const pointer =
      (await source?.pointer().catch((cause) => {
        observer.refused(null, cause);
        return null;
      })) ?? null;
    const published = pointer ? [currentOf(pointer), previousOf(pointer)].filter((hash) => hash !== null) : [];
    const loads = [...published.map((hash) => () => this.#load(source!, hash)), assets];
    const whole: Partial<Record<Holding, Artifacts>> = {};
    let failure: unknown = null;
    for (const load of loads) {
      const set = await load().catch((cause) => {
        failure = cause;
        return null;
      });
      if (!set) continue;
      // Where there is no choice nobody is asked.
      const share = loads.length === 1 ? "all" : await holding(set.manifestHash);
      whole[share] ??= set;
      if (share === "all") break;
    }
    const chosen = whole.all ?? whole.some ?? whole.none;
    if (!chosen) throw failure;
    this.#served = chosen;
    this.#lookedMs = now();
    observer.switched(null, chosen.manifestHash);
    return chosen;
  }

  #startLook(source: ArtifactSource): Promise<void> {
    const { now, background } = this.#parts;
    if (this.#look && now() - this.#look.sinceMs < artifactLimits.lookMs) return this.#look.work;
    const work = this.#lookAgain(source).finally(() => {
      if (this.#look?.work !== work) return;
      this.#look = null;
      this.#lookedMs = now();
    });
    this.#look = { sinceMs: now(), work };
    background(work);
    return work;
  }

  /** Never rejects. */
  async #lookAgain(source: ArtifactSource): Promise<void> {
    const { observer } = this.#parts;
    try {
      const pointer = await source.pointer();
      // What is served stays where the pointer is gone.
      const wanted = pointer && currentOf(pointer);
      if (!wanted || wanted === this.#served!.manifestHash) return;
      if (this.#other?.manifestHash !== wanted) this.#other = await this.#load(source, wanted);
      if (!(await this.#isSpread(wanted))) {
        observer.awaited(wanted);
        return;
      }
      const before = this.#served!;
      this.#served = this.#other;
      this.#other = before;
      observer.switched(before.manifestHash, wanted);
    } catch (cause) {
      if (cause instanceof RefusedSet) return;
      observer.refused(null, cause);
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
    const { now, observer } = this.#parts;
    if (this.#refusal?.manifestHash === manifestHash && now() < this.#refusal.untilMs) throw new RefusedSet();
    try {
      const set = await source.load(manifestHash);
      this.#refusal = null;
      return set;
    } catch (cause) {
      this.#refusal = { manifestHash, untilMs: now() + artifactLimits.refusedMs };
      observer.refused(manifestHash, cause);
      throw new RefusedSet();
    }
  }
}

/** It was told already. */
class RefusedSet extends Error {}

function ignore(): void {}
