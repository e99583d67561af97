/** Keeps generated adapters: byte-bounded, each generated once however many ask at the same time. */

import { LruCache } from "../../lru.ts";
import type { Adapter, AdapterSource } from "../adapter.ts";

export interface AcquiredAdapter {
  adapter: Adapter;
  /** "generated" also for callers that waited for a generation under way. */
  cache: "hit" | "generated";
}

export interface AdapterCacheStats {
  entries: number;
  bytes: number;
  hits: number;
  generated: number;
  /** Dropped to keep within the bound. */
  evictions: number;
  /** Milliseconds of all generations, each from its call to its end. */
  generationMs: number;
}

/** Upper bound on the adapters in a cache. Sequences hold theirs besides, which are at most a few. */
export const maxCacheBytes = 64 * 2 ** 20;

export class AdapterCache {
  readonly #source: AdapterSource;
  readonly #now: () => number;
  readonly #adapters: LruCache<Adapter>;
  /** Generations under way, by hash. */
  readonly #underWay = new Map<string, Promise<Adapter>>();
  #hits = 0;
  #generated = 0;
  #evictions = 0;
  #generationMs = 0;

  /** `now` gives the milliseconds of a clock that only goes forward. */
  constructor(source: AdapterSource, now: () => number, maximumBytes = maxCacheBytes) {
    this.#source = source;
    this.#now = now;
    this.#adapters = new LruCache(maximumBytes);
  }

  get stats(): AdapterCacheStats {
    return {
      entries: this.#adapters.size,
      bytes: this.#adapters.bytes,
      hits: this.#hits,
      generated: this.#generated,
      evictions: this.#evictions,
      generationMs: this.#generationMs,
    };
  }

  /** An adapter by its id. Throws an Error for an id that does not exist; a failed generation is not remembered. */
  async acquire(id: string): Promise<AcquiredAdapter> {
    const hash = this.#source.hashOf(id);
    if (hash === null) throw new Error(`no adapter ${id}`);
    const cached = this.#adapters.get(hash);
    if (cached) {
      this.#hits++;
      return { adapter: cached, cache: "hit" };
    }
    let generation = this.#underWay.get(hash);
    if (!generation) {
      generation = this.#generate(hash, id);
      this.#underWay.set(hash, generation);
    }
    return { adapter: await generation, cache: "generated" };
  }

  async #generate(hash: string, id: string): Promise<Adapter> {
    const startedMs = this.#now();
    try {
      this.#generated++;
      const adapter = await this.#source.generate(id);
      this.#evictions += this.#adapters.set(hash, adapter, adapter.bytes);
      return adapter;
    } finally {
      this.#generationMs += this.#now() - startedMs;
      this.#underWay.delete(hash);
    }
  }
}
