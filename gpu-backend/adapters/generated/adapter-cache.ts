import { LruCache } from "../../lru.ts";
import type { Adapter, AdapterSource } from "../adapter.ts";

export interface AcquiredAdapter {
  adapter: Adapter;
  /** The value is "generated", too, if the call waited for another caller's generation. */
  cache: "hit" | "generated";
}

/** Adapters in use are not freed, even if the cache has dropped them. */
export const maxCacheBytes = 64 * 2 ** 20;

export class AdapterCache {
  readonly #source: AdapterSource;
  readonly #now: () => number;
  readonly #adapters: LruCache<Adapter>;
  /** Running generations, by the adapter's hash. */
  readonly #underWay = new Map<string, Promise<Adapter>>();
  readonly #counts = { hits: 0, generated: 0, evictions: 0, generationMs: 0 };

  constructor(source: AdapterSource, now: () => number, maximumBytes = maxCacheBytes) {
    this.#source = source;
    this.#now = now;
    this.#adapters = new LruCache(maximumBytes);
  }

  get stats() {
    return { entries: this.#adapters.size, bytes: this.#adapters.bytes, ...this.#counts };
  }

  /** Throws an Error for an unknown id. A failed generation is not cached. */
  async acquire(id: string): Promise<AcquiredAdapter> {
    const hash = this.#source.hashOf(id);
    if (hash === null) throw new Error(`no adapter ${id}`);
    const cached = this.#adapters.get(hash);
    if (cached) {
      this.#counts.hits++;
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
      this.#counts.generated++;
      const adapter = await this.#source.generate(id);
      this.#counts.evictions += this.#adapters.set(hash, adapter, adapter.bytes);
      return adapter;
    } finally {
      this.#counts.generationMs += this.#now() - startedMs;
      this.#underWay.delete(hash);
    }
  }
}
