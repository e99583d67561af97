/** Which of a tenant's own adapters are nearest to a prompt. Pure. */
import { dot } from "../../shared/math/assignment.ts";
import { isWaiting, type OwnAdapter } from "./own-adapters.ts";

/** Own adapters that `auto` considers for a prompt. */
const nearestAdapters = 3;

/** The tenant's own adapters for the prompts of a request. */
export interface NearestAdapters {
  /** It has adapters, of any manifest. */
  hasAny: boolean;
  /** That of the adapters which can be used: the asked one, or another while all of them wait to be made again. */
  manifestHash: string;
  /** For each prompt: usable adapters of that manifest, at most `nearestAdapters`, nearest first. */
  nearest: OwnAdapter[][];
}

export class RankedAdapters {
  readonly #all: { adapter: OwnAdapter; centroid: Float32Array; isUsable: boolean }[];

  constructor(all: readonly OwnAdapter[]) {
    this.#all = all.map((adapter) => {
      const isUsable = adapter.gain !== null || Boolean(adapter.memory?.ready);
      return { adapter, centroid: Float32Array.from(adapter.centroid), isUsable };
    });
  }

  /** Whether one is to be made again for this manifest. */
  isAnyWaiting(manifestHash: string): boolean {
    return this.#all.some(({ adapter }) => isWaiting(adapter, manifestHash));
  }

  /** Of prompts of these embeddings [S, P]; `find` reads an adapter's record. */
  nearest(embeddings: Float32Array[], manifestHash: string, find: (name: string) => OwnAdapter): NearestAdapters {
    const all = this.#all.filter(({ isUsable }) => isUsable);
    const usable = all.filter(({ adapter }) => adapter.manifestHash === manifestHash);
    const nearest = embeddings.map((embedding) => {
      const ranked = usable.map(({ adapter, centroid }) => ({ adapter, similarity: dot(embedding, centroid) }));
      ranked.sort((a, b) => b.similarity - a.similarity);
      return ranked.slice(0, nearestAdapters).map(({ adapter }) => find(adapter.name));
    });
    const [one] = usable.length > 0 ? usable : all;
    return { hasAny: this.#all.length > 0, manifestHash: one?.adapter.manifestHash ?? manifestHash, nearest };
  }
}
