/** Sequences with a common prompt prefix compute it once: each waits while another sequence, its leader, computes the next block. */

import { blockNames, type FoundBlock, type PrefixCache } from "../kv/prefix-cache.ts";
import type { KvBlock } from "../kv/runner.ts";
import type { Sequence } from "./sequence.ts";

export class SharedPrefixes {
  readonly #cache: PrefixCache;
  readonly #blockTokens: number;
  readonly #sharesParts: boolean;
  /** Block names of each sequence whose prompt is not cached yet. */
  readonly #chains = new Map<Sequence, string[]>();
  /** The leader of each block, by the block's name. */
  readonly #leaders = new Map<string, Sequence>();

  /** `sharesParts`: parts of blocks are reused, too (KvStore.continuesChunks). */
  constructor(cache: PrefixCache, blockTokens: number, sharesParts = true) {
    this.#cache = cache;
    this.#blockTokens = blockTokens;
    this.#sharesParts = sharesParts;
  }

  arrive(sequence: Sequence): void {
    const { tenant, ids, promptTokens } = sequence;
    this.#chains.set(sequence, blockNames(tenant, ids.slice(0, promptTokens), this.#blockTokens));
  }

  reusableTokens(sequence: Sequence): number {
    const chain = this.#reusable(sequence);
    const missing = chain.findIndex((name) => !this.#cache.has(name));
    return this.#blockTokens * (missing < 0 ? chain.length : missing);
  }

  /** Whether another sequence, or one of `starting`, computes the block that `sequence` needs next. */
  mustWait(sequence: Sequence, starting: readonly Sequence[]): boolean {
    const next = this.#reusable(sequence).find((name) => !this.#cache.has(name));
    if (next === undefined) return false;
    return this.#leaders.has(next) || starting.some((other) => this.#chains.get(other)?.includes(next));
  }

  /** Leaves out blocks that are cached or computed by another sequence. */
  lead(sequence: Sequence): void {
    if (!sequence.keepsPrefix) return;
    for (const name of this.#chainOf(sequence)) {
      if (!this.#cache.has(name) && !this.#leaders.has(name)) this.#leaders.set(name, sequence);
    }
  }

  take(sequence: Sequence): FoundBlock[] {
    if (sequence.scoresPrompt) return [];
    const { tenant, ids, promptTokens } = sequence;
    return this.#cache.take(tenant, this.#reusable(sequence), ids.slice(0, promptTokens - 1), this.#sharesParts);
  }

  /** The positions [start, end) are a block or the end of the prompt. */
  computed(sequence: Sequence, start: number, end: number, copy: () => KvBlock): void {
    if (!sequence.keepsPrefix) return;
    const chain = this.#chainOf(sequence);
    const at = start / this.#blockTokens;
    // undefined at the end of a prompt that does not fill its last block.
    const name = chain.at(at);
    if (name === undefined ? this.#sharesParts : !this.#cache.has(name)) {
      const ids = Int32Array.from(sequence.ids.slice(start, end));
      this.#cache.keep(sequence.tenant, chain.slice(0, at), ids, copy);
    }
    if (name !== undefined && this.#leaders.get(name) === sequence) this.#leaders.delete(name);
  }

  leave(sequence: Sequence): void {
    for (const name of this.#chains.get(sequence) ?? []) {
      if (this.#leaders.get(name) === sequence) this.#leaders.delete(name);
    }
    this.#chains.delete(sequence);
  }

  /** Leaves out the last token, which is always computed for its logits. */
  #reusable(sequence: Sequence): string[] {
    if (sequence.scoresPrompt) return [];
    return this.#chainOf(sequence).slice(0, Math.floor((sequence.promptTokens - 1) / this.#blockTokens));
  }

  #chainOf(sequence: Sequence): string[] {
    const chain = this.#chains.get(sequence);
    if (!chain) throw new Error("the sequence never arrived, or has left");
    return chain;
  }
}
