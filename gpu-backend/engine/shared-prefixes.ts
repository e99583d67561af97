/**
 * Computes prompt prefixes that sequences share only once. A sequence whose first blocks are cached starts after them. A
 * sequence that would compute a block which a running sequence (its leader) is computing waits for that whole block. Each
 * sequence computes the rest of its prompt, at least the last token, itself. If the leader ends early, or its blocks are
 * evicted, the sequence that waited longest becomes the leader.
 */

import { blockNames, type FoundBlock, type PrefixCache } from "../kv/prefix-cache.ts";
import type { KvBlock } from "../runtime/model-runner.ts";

export interface Prefixed {
  readonly tenant: string;
  /** Prompt, continued and generated token ids; only the prompt's are shared. */
  readonly ids: readonly number[];
  readonly promptTokens: number;
  /** True if the logits of every prompt position are needed: then no block is skipped. */
  readonly scoresPrompt: boolean;
  /** False for text that is not expected again, such as an adapter's example. */
  readonly keepsPrefix: boolean;
}

export class SharedPrefixes<S extends Prefixed> {
  readonly #cache: PrefixCache;
  readonly #blockTokens: number;
  readonly #sharesParts: boolean;
  /** The names of a sequence's whole blocks, from its arrival to the end of its prefill. */
  readonly #chains = new Map<S, string[]>();
  /** The sequence that computes a block, by the block's name. */
  readonly #leaders = new Map<string, S>();

  /** Without `sharesParts`, only whole blocks are shared. */
  constructor(cache: PrefixCache, blockTokens: number, sharesParts = true) {
    this.#cache = cache;
    this.#blockTokens = blockTokens;
    this.#sharesParts = sharesParts;
  }

  /** Registers a sequence that was queued. */
  arrive(sequence: S): void {
    this.#chains.set(
      sequence,
      blockNames(sequence.tenant, sequence.ids.slice(0, sequence.promptTokens), this.#blockTokens),
    );
  }

  /** Number of prompt tokens in the cached whole blocks that the sequence may skip. */
  reusableTokens(sequence: S): number {
    const chain = this.#reusable(sequence);
    const missing = chain.findIndex((name) => !this.#cache.has(name));
    return this.#blockTokens * (missing < 0 ? chain.length : missing);
  }

  /** True if another sequence, or one of `starting`, computes the block that this one would compute first. */
  mustWait(sequence: S, starting: readonly S[]): boolean {
    const next = this.#reusable(sequence).find((name) => !this.#cache.has(name));
    if (next === undefined) return false;
    return this.#leaders.has(next) || starting.some((other) => this.#chains.get(other)?.includes(next));
  }

  /** Makes a starting sequence the leader of its blocks that are neither cached nor being computed. */
  lead(sequence: S): void {
    if (!sequence.keepsPrefix) return;
    for (const name of this.#chainOf(sequence)) {
      if (!this.#cache.has(name) && !this.#leaders.has(name)) this.#leaders.set(name, sequence);
    }
  }

  /** The cached blocks that a sequence starts after. */
  take(sequence: S): FoundBlock[] {
    if (sequence.scoresPrompt) return [];
    const { tenant, ids, promptTokens } = sequence;
    return this.#cache.take(tenant, this.#reusable(sequence), ids.slice(0, promptTokens - 1), this.#sharesParts);
  }

  /** Caches the completed block, or end of the prompt, at positions [start, end), of which `copy` gives a copy. */
  computed(sequence: S, start: number, end: number, copy: () => KvBlock): void {
    if (!sequence.keepsPrefix) return;
    const chain = this.#chainOf(sequence);
    const at = start / this.#blockTokens;
    // undefined for the end of the prompt, which is no whole block.
    const name = chain.at(at);
    if (name === undefined ? this.#sharesParts : !this.#cache.has(name)) {
      const ids = Int32Array.from(sequence.ids.slice(start, end));
      this.#cache.keep(sequence.tenant, chain.slice(0, at), ids, copy);
    }
    if (name !== undefined && this.#leaders.get(name) === sequence) this.#leaders.delete(name);
  }

  /** Unregisters a sequence that is prefilled or has ended. */
  leave(sequence: S): void {
    for (const name of this.#chains.get(sequence) ?? []) {
      if (this.#leaders.get(name) === sequence) this.#leaders.delete(name);
    }
    this.#chains.delete(sequence);
  }

  /** The names of the blocks it may skip: the last token is always computed, as its logits are needed. */
  #reusable(sequence: S): string[] {
    if (sequence.scoresPrompt) return [];
    return this.#chainOf(sequence).slice(0, Math.floor((sequence.promptTokens - 1) / this.#blockTokens));
  }

  #chainOf(sequence: S): string[] {
    const chain = this.#chains.get(sequence);
    if (!chain) throw new Error("the sequence never arrived, or has left");
    return chain;
  }
}
