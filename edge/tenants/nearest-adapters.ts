/** Which of a tenant's own adapters are nearest to a prompt. Pure. Shapes: S prompts, P size of a prompt embedding. */
import { dot } from "../../shared/math/assignment.ts";
import { isWaiting, type OwnAdapter } from "./own-adapters.ts";

const nearestAdapters = 3;

export interface NearestAdapters {
  hasAny: boolean;
  /** The requested manifest or, while all usable adapters wait to be made again for it, the manifest that they were made for. */
  manifestHash: string;
  /** For each prompt, its nearest usable adapters of the requested manifest, the nearest first; at most `nearestAdapters`. */
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

  isAnyWaiting(manifestHash: string): boolean {
    return this.#all.some(({ adapter }) => isWaiting(adapter, manifestHash));
  }

  /** `embeddings`: the prompts' embeddings, [S, P]. `find` reads the adapter of a name. */
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
