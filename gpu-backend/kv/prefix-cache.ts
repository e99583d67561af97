/**
 * Caches keys and values of prompt prefixes, in blocks of one prefill chunk. A block's name is a hash of the tenant and of every token id
 * up to the block's end. After whole blocks, a prompt can also reuse the first tokens of one more block. Reused values have the same bits
 * as computed ones, because chunks begin at fixed positions and a row's bits do not depend on its batch.
 *
 * If the cache exceeds its bound, the tenant with the most bytes loses its least recently used block. So a tenant never loses its equal
 * share of the bound to another tenant.
 */
import { createHash } from "node:crypto";
import type { KvBlock } from "./runner.ts";

export interface Block {
  ids: Int32Array; // [t]
  kv: KvBlock;
}

export interface FoundBlock {
  block: Block;
  tokens: number;
}

/** Minimum tokens of a block. Fewer tokens are not worth a pass. */
export const minTokens = 8;

export function blockNames(tenant: string, ids: readonly number[], blockTokens: number): string[] {
  const names: string[] = [];
  let before = beginningOf(tenant);
  for (let end = blockTokens; end <= ids.length; end += blockTokens) {
    before = blockName(before, Int32Array.from(ids.slice(end - blockTokens, end)));
    names.push(before);
  }
  return names;
}

/** Stands before a prompt's first block. No block has this name, because names of blocks have no slash. */
function beginningOf(tenant: string): string {
  return `/${tenant}`;
}

function blockName(before: string, ids: Int32Array): string {
  return createHash("sha256").update(`${before}\n`).update(ids).digest("hex");
}

export class PrefixCache {
  readonly #maximumBytes: number;
  #bytes = 0;
  readonly #bytesOf = new Map<string, number>();
  /** By name, least recently used first. `before` is the name of the previous block in the prompt. */
  readonly #blocks = new Map<string, Block & { tenant: string; before: string }>();
  /** Names of the next blocks, by the previous block's name. First blocks of prompts are under `beginningOf`. */
  readonly #following = new Map<string, Set<string>>();
  #queriedTokens = 0;
  #reusedTokens = 0;
  #evictions = 0;

  constructor(maximumBytes: number) {
    this.#maximumBytes = maximumBytes;
  }

  get stats() {
    return {
      queriedTokens: this.#queriedTokens,
      reusedTokens: this.#reusedTokens,
      blocks: this.#blocks.size,
      tenants: this.#bytesOf.size,
      bytes: this.#bytes,
      evictions: this.#evictions,
    };
  }

  has(name: string): boolean {
    return this.#blocks.has(name);
  }

  /** Finds whole blocks at the start of `ids`. With `sharesParts`, also finds a part of the next block. Marks blocks as used. */
  take(tenant: string, chain: readonly string[], ids: readonly number[], sharesParts: boolean): FoundBlock[] {
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
    this.#used(names);
    return found;
  }

  /** Adds a block after the blocks in `chain`, unless it is too short or a cached block begins with it. */
  keep(tenant: string, chain: readonly string[], ids: Int32Array, copy: () => KvBlock): void {
    const before = chain.at(-1) ?? beginningOf(tenant);
    const name = blockName(before, ids);
    if (ids.length < minTokens || this.#blocks.has(name)) return;
    for (const other of this.#following.get(before) ?? []) {
      const known = this.#blocks.get(other)!;
      const common = commonTokens(known.ids, ids);
      if (common === ids.length) return;
      if (common === known.ids.length) this.#forget(other);
    }
    const kv = copy();
    this.#addBytes(tenant, kv.bytes);
    this.#blocks.set(name, { ids, kv, tenant, before });
    const following = this.#following.get(before);
    if (following) following.add(name);
    else this.#following.set(before, new Set([name]));
    this.#used([...chain, name].filter((other) => this.#blocks.has(other)));
    for (; this.#bytes > this.#maximumBytes; this.#evictions++) {
      const [largest] = [...this.#bytesOf].reduce((max, one) => (one[1] > max[1] ? one : max));
      const [oldest] = this.#blocks.entries().find(([, block]) => block.tenant === largest)!;
      this.#forget(oldest);
    }
  }

  /** The block with the most first tokens in common with `ids`; null if none has `minTokens` in common. */
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
    const { tenant, before, kv } = this.#blocks.get(name)!;
    this.#addBytes(tenant, -kv.bytes);
    kv.free();
    this.#blocks.delete(name);
    const following = this.#following.get(before);
    following?.delete(name);
    if (following?.size === 0) this.#following.delete(before);
  }

  /** Marks the last block first, so that a block is never evicted before the blocks after it. */
  #used(chain: readonly string[]): void {
    for (const name of chain.toReversed()) {
      const block = this.#blocks.get(name)!;
      this.#blocks.delete(name);
      this.#blocks.set(name, block);
    }
  }

  #addBytes(tenant: string, bytes: number): void {
    this.#bytes += bytes;
    const held = (this.#bytesOf.get(tenant) ?? 0) + bytes;
    if (held > 0) this.#bytesOf.set(tenant, held);
    else this.#bytesOf.delete(tenant);
  }
}

function commonTokens(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const maxTokens = Math.min(a.length, b.length);
  for (let t = 0; t < maxTokens; t++) if (a[t] !== b[t]) return t;
  return maxTokens;
}
