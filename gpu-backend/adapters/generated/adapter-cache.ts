/** Keeps generated adapters: byte-bounded, each generated once however many ask at the same time. */
import type { Adapter, AdapterSource } from "../adapter.ts";
import { LruPolicy } from "../lru.ts";

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

export class AdapterCache {
  readonly #source: AdapterSource;
  readonly #now: () => number;
  readonly #policy: LruPolicy;
  readonly #adapters = new Map<string, Adapter>();
  /** Generations under way, by hash. */
  readonly #underWay = new Map<string, Promise<Adapter>>();
  #hits = 0;
  #generated = 0;
  #evictions = 0;
  #generationMs = 0;

  /** `now` gives the milliseconds of a clock that only goes forward. */
  constructor(source: AdapterSource, maximumBytes: number, now: () => number) {
    this.#source = source;
    this.#now = now;
    this.#policy = new LruPolicy(maximumBytes);
  }

  get stats(): AdapterCacheStats {
    return {
      entries: this.#adapters.size,
      bytes: this.#policy.bytes,
      hits: this.#hits,
      generated: this.#generated,
      evictions: this.#evictions,
      generationMs: this.#generationMs,
    };
  }

  /**
   * An adapter by its id, pinned until `release`. Throws an Error for an id that does not exist; a failed generation is not
   * remembered.
   */
  async acquire(id: string): Promise<AcquiredAdapter> {
    const hash = this.#source.hashOf(id);
    if (hash === null) throw new Error(`no adapter ${id}`);
    const cached = this.#adapters.get(hash);
    if (cached) {
      this.#hits++;
      this.#policy.pin(hash);
      return { adapter: cached, cache: "hit" };
    }
    let generation = this.#underWay.get(hash);
    if (!generation) {
      generation = this.#generate(hash, id);
      this.#underWay.set(hash, generation);
    }
    const adapter = await generation;
    this.#keep(adapter);
    this.#policy.pin(hash);
    this.#drop();
    return { adapter, cache: "generated" };
  }

  /** Undoes one pin. */
  release(adapter: Adapter): void {
    this.#policy.unpin(adapter.hash);
    this.#drop();
  }

  async #generate(hash: string, id: string): Promise<Adapter> {
    const startedMs = this.#now();
    try {
      this.#generated++;
      return await this.#source.generate(id);
    } finally {
      this.#generationMs += this.#now() - startedMs;
      this.#underWay.delete(hash);
    }
  }

  /** Each waiter calls this before it pins, as another's release may have evicted the adapter. */
  #keep(adapter: Adapter): void {
    if (this.#policy.has(adapter.hash)) return;
    this.#policy.add(adapter.hash, adapter.bytes);
    this.#adapters.set(adapter.hash, adapter);
  }

  #drop(): void {
    for (const hash of this.#policy.evict()) {
      this.#adapters.delete(hash);
      this.#evictions++;
    }
  }
}
