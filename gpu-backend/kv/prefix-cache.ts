/**
 * Keys and values of prompt prefixes, in blocks of one prefill chunk; the last block of a prompt may be shorter. A whole block
 * is named by a hash of the tenant and of every token id up to its end, so that any prompt of the tenant with the same prefix
 * finds it, under any centroid. A prompt also reuses the tokens that it has in common with a further block. Chunks are at fixed
 * positions and a row's results are the same bits in any batch, so reused values equal computed ones. Nothing is pinned: found
 * values are copied into the arena at once. Tenants have shares of its bytes (tenant-shares.ts). Not here: which sequence waits
 * for another (engine/shared-prefixes.ts).
 */
import { createHash } from "node:crypto";
import type { KvBlock } from "../runtime/model-runner.ts";
import { TenantShares } from "./tenant-shares.ts";

export interface PrefixCacheStats {
  /** Prompt tokens looked up. */
  queriedTokens: number;
  /** Prompt tokens found, and not prefilled. */
  reusedTokens: number;
  /** Tenants that have a block. */
  tenants: number;
  blocks: number;
  bytes: number;
  /** Blocks dropped to free memory. */
  evictions: number;
}

/** Keys and values of t tokens; read only. */
export interface Block {
  ids: Int32Array; // [t]
  kv: KvBlock;
}

/** The first `tokens` tokens of a block. */
export interface FoundBlock {
  block: Block;
  tokens: number;
}

/** Minimum tokens of a block, or of a found part: fewer are not worth a pass. */
export const minTokens = 8;

/** The names of the whole blocks at the start of `ids`. */
export function blockNames(tenant: string, ids: readonly number[], blockTokens: number): string[] {
  const names: string[] = [];
  let before = beginningOf(tenant);
  for (let end = blockTokens; end <= ids.length; end += blockTokens) {
    before = blockName(before, Int32Array.from(ids.slice(end - blockTokens, end)));
    names.push(before);
  }
  return names;
}

/** The name before a tenant's first block. No tenant's name has a slash, so it is no block's name. */
function beginningOf(tenant: string): string {
  return `/${tenant}`;
}

function blockName(before: string, ids: Int32Array): string {
  return createHash("sha256").update(`${before}\n`).update(ids).digest("hex");
}

export class PrefixCache {
  readonly #shares: TenantShares;
  /** By name. */
  readonly #blocks = new Map<string, Block & { before: string }>();
  /** Names of the blocks that follow a block, or a tenant's beginning. */
  readonly #following = new Map<string, Set<string>>();
  #queriedTokens = 0;
  #reusedTokens = 0;
  #evictions = 0;

  constructor(maximumBytes: number) {
    this.#shares = new TenantShares(maximumBytes);
  }

  get stats(): PrefixCacheStats {
    return {
      queriedTokens: this.#queriedTokens,
      reusedTokens: this.#reusedTokens,
      blocks: this.#blocks.size,
      tenants: this.#shares.tenants,
      bytes: this.#shares.bytes,
      evictions: this.#evictions,
    };
  }

  has(name: string): boolean {
    return this.#blocks.has(name);
  }

  /**
   * Cached blocks of the start of a tenant's `ids`: those of `chain`, the names of its whole blocks, up to the first missing one,
   * then the part of another block that matches the rest, unless only whole ones are wanted. Counts as one use of each.
   */
  take(tenant: string, chain: readonly string[], ids: readonly number[], sharesParts = true): FoundBlock[] {
    const missing = chain.findIndex((name) => !this.#blocks.has(name));
    const names = missing < 0 ? [...chain] : chain.slice(0, missing);
    const found: FoundBlock[] = names.map((name) => {
      const block = this.#blocks.get(name)!;
      return { block, tokens: block.ids.length };
    });
    const foundTokens = found.reduce((sum, { tokens }) => sum + tokens, 0);
    const part = sharesParts && this.#partAfter(names.at(-1) ?? beginningOf(tenant), ids.slice(foundTokens));
    if (part) {
      names.push(part.name);
      found.push(part);
    }
    this.#queriedTokens += ids.length;
    for (const { tokens } of found) this.#reusedTokens += tokens;
    this.#used(tenant, names);
    return found;
  }

  /**
   * Caches the block of `ids` after those of `chain`, if memory allows, in place of blocks that are prefixes of it. `copy` gives its
   * keys and values, and is called if it is new.
   */
  keep(tenant: string, chain: readonly string[], ids: Int32Array, copy: () => KvBlock): void {
    const before = chain.at(-1) ?? beginningOf(tenant);
    const name = blockName(before, ids);
    if (ids.length < minTokens || this.#blocks.has(name)) return;
    for (const other of this.#following.get(before) ?? []) {
      const known = this.#blocks.get(other)!;
      const common = commonTokens(known.ids, ids);
      if (common === ids.length) return;
      if (common < known.ids.length) continue;
      this.#shares.remove(tenant, other);
      this.#forget(other);
    }
    const kv = copy();
    this.#shares.add(tenant, name, kv.bytes);
    this.#blocks.set(name, { ids, kv, before });
    const following = this.#following.get(before);
    if (following) following.add(name);
    else this.#following.set(before, new Set([name]));
    this.#used(
      tenant,
      [...chain, name].filter((other) => this.#blocks.has(other)),
    );
    for (const dropped of this.#shares.evict()) {
      this.#forget(dropped);
      this.#evictions++;
    }
  }

  /** The following block with the most tokens in common with `ids`. */
  #partAfter(before: string, ids: readonly number[]): (FoundBlock & { name: string }) | null {
    let best: (FoundBlock & { name: string }) | null = null;
    for (const name of this.#following.get(before) ?? []) {
      const block = this.#blocks.get(name)!;
      const tokens = commonTokens(block.ids, ids);
      if (tokens >= Math.max(minTokens, (best?.tokens ?? 0) + 1)) best = { name, block, tokens };
    }
    return best;
  }

  #forget(name: string): void {
    const { before, kv } = this.#blocks.get(name)!;
    kv.free();
    this.#blocks.delete(name);
    const following = this.#following.get(before);
    following?.delete(name);
    if (following?.size === 0) this.#following.delete(before);
  }

  /** Last block first, so that a block is never evicted before those that follow it, which cannot be found without it. */
  #used(tenant: string, chain: readonly string[]): void {
    for (const name of chain.toReversed()) this.#shares.touch(tenant, name);
  }
}

/** Number of equal tokens at the start of both. */
function commonTokens(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const maxTokens = Math.min(a.length, b.length);
  for (let t = 0; t < maxTokens; t++) if (a[t] !== b[t]) return t;
  return maxTokens;
}
