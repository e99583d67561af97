/**
 * Keys and values of prompt beginnings that were computed before, in blocks of one prefill chunk. A block is named by a
 * hash of the tenant and of every token id up to its end, so that it is found by whoever has the same beginning, under
 * any centroid, and never by another tenant. Chunks lie at fixed positions and a row's results are the same bits
 * whatever its mates, so a block that was found is bit for bit what computing it would give.
 * There are no pins: what is found is copied into the arena at once, nobody reads a block later.
 * Not here: who waits for whom to compute a block (engine/shared-prefixes.ts).
 */
import { createHash } from "node:crypto";
import type { LruPolicy } from "../adapters/lru.ts";

export interface PrefixCacheStats {
  /** Sequences that found a block at least. */
  hits: number;
  /** Sequences that had a block to look for and found none. */
  misses: number;
  /** Tokens of all blocks found: prefill that was not run. */
  reusedTokens: number;
  blocks: number;
  bytes: number;
  /** Blocks dropped for want of memory. */
  evictions: number;
}

/** The names of the whole blocks at the start of `ids`; each stands for all that comes before it, too. */
export function blockNames(tenant: string, ids: readonly number[], blockTokens: number): string[] {
  const names: string[] = [];
  let before = tenant;
  for (let end = blockTokens; end <= ids.length; end += blockTokens) {
    const block = Int32Array.from({ length: blockTokens }, (_, t) => ids[end - blockTokens + t]);
    before = createHash("sha256").update(`${before}\n`).update(block).digest("hex");
    names.push(before);
  }
  return names;
}

export class PrefixCache {
  readonly #policy: LruPolicy;
  /** By name, each [2L, H, t, d] of its t tokens. */
  readonly #blocks = new Map<string, Float32Array>();
  #hits = 0;
  #misses = 0;
  #reusedTokens = 0;
  #evictions = 0;

  constructor(policy: LruPolicy) {
    this.#policy = policy;
  }

  get stats(): PrefixCacheStats {
    return {
      hits: this.#hits,
      misses: this.#misses,
      reusedTokens: this.#reusedTokens,
      blocks: this.#blocks.size,
      bytes: this.#policy.bytes,
      evictions: this.#evictions,
    };
  }

  has(name: string): boolean {
    return this.#blocks.has(name);
  }

  /** The blocks at the start of a chain of names, up to the first that is missing. Counts as one use of each. */
  take(chain: readonly string[], blockTokens: number): Float32Array[] {
    const missing = chain.findIndex((name) => !this.#blocks.has(name));
    const found = missing < 0 ? chain : chain.slice(0, missing);
    if (found.length > 0) this.#hits++;
    else if (chain.length > 0) this.#misses++;
    this.#reusedTokens += found.length * blockTokens;
    this.#used(found);
    return found.map((name) => this.#blocks.get(name)!);
  }

  /** Keeps the last block of a chain of names, if memory allows; the caller never changes it again. */
  keep(chain: readonly string[], block: Float32Array): void {
    const name = chain[chain.length - 1];
    if (this.#blocks.has(name)) return;
    this.#policy.add(name, block.byteLength);
    this.#blocks.set(name, block);
    this.#used(chain.filter((other) => this.#blocks.has(other)));
    for (const dropped of this.#policy.evict()) {
      this.#blocks.delete(dropped);
      this.#evictions++;
    }
  }

  /** Last block first, so that a beginning is never dropped before what follows it: that could not be found without. */
  #used(chain: readonly string[]): void {
    for (const name of chain.toReversed()) this.#policy.touch(name);
  }
}
