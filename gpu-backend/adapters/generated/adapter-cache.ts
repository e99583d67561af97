/** Keeps generated adapters: byte-bounded, each generated once however many ask at the same time. */
import type { Adapter, AdapterSource } from "../adapter.ts";
import { LruPolicy } from "../lru.ts";

export interface AcquiredAdapter {
  adapter: Adapter;
  /** Whether it was there, or was made for this caller (or for one that asked a moment before). */
  cache: "hit" | "generated";
}

export interface AdapterCacheStats {
  entries: number;
  bytes: number;
  hits: number;
  generated: number;
  /** Dropped to keep within the bound. */
  evictions: number;
  /** Milliseconds that all generations took, each from its call to its end. */
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

  /** Whether an adapter is kept; one that is being made is not yet. */
  has(id: string): boolean {
    return this.#adapters.has(this.#source.hashOf(id) ?? "");
  }

  /**
   * An adapter by its id, pinned once for each of `users` sequences: call `release` as often.
   * Throws an Error for an id that does not exist; a failed generation is not remembered.
   */
  async acquire(id: string, users: number): Promise<AcquiredAdapter> {
    const hash = this.#source.hashOf(id);
    if (hash === null) throw new Error(`no adapter ${id}`);
    const kept = this.#adapters.get(hash);
    if (kept) {
      this.#hits++;
      this.#policy.pin(hash, users);
      return { adapter: kept, cache: "hit" };
    }
    let generation = this.#underWay.get(hash);
    if (!generation) {
      generation = this.#generate(hash, id);
      this.#underWay.set(hash, generation);
    }
    const adapter = await generation;
    this.#keep(adapter);
    this.#policy.pin(hash, users);
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

  /** Each waiter keeps what it waited for before it pins: another's release may have dropped it since. */
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
