/**
 * Prompt beginnings that sequences have in common are computed once: who finds blocks in the cache goes on after them,
 * and who would compute a block that a running sequence is just computing waits for it, as the choices of one prompt do.
 * Only whole blocks are waited for; what is left of a prompt, at least its last token, each sequence computes for itself,
 * but for what is cached of it.
 * Should the leader end early, or its blocks be evicted, the first of those who waited becomes the next leader.
 */
import { blockNames, type FoundBlock, type PrefixCache } from "../kv/prefix-cache.ts";

/** What is asked of a sequence. */
export interface Prefixed {
  readonly tenant: string;
  /** Prompt, continued and generated token ids; only the prompt's are shared. */
  readonly ids: readonly number[];
  readonly promptTokens: number;
  /** Such a prompt needs the logits of every position, so it computes all of its blocks, for others too. */
  readonly scoresPrompt: boolean;
  /** False for a text that comes once, such as an adapter's example: it would push prompts that return out of the cache. */
  readonly keepsPrefix: boolean;
}

export class SharedPrefixes<S extends Prefixed> {
  readonly #cache: PrefixCache;
  readonly #blockTokens: number;
  /** The names of a sequence's whole blocks, from its arrival to the end of its prefill. */
  readonly #chains = new Map<S, string[]>();
  /** Who computes a block, by name. */
  readonly #leaders = new Map<string, S>();

  constructor(cache: PrefixCache, blockTokens: number) {
    this.#cache = cache;
    this.#blockTokens = blockTokens;
  }

  /** A sequence came. */
  arrive(sequence: S): void {
    this.#chains.set(
      sequence,
      blockNames(sequence.tenant, sequence.ids.slice(0, sequence.promptTokens), this.#blockTokens),
    );
  }

  /** Tokens of the whole blocks at a prompt's beginning that are cached, so far as it may skip them. */
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

  /** A sequence starts: it leads the blocks that nobody has computed or is computing. */
  lead(sequence: S): void {
    if (!sequence.keepsPrefix) return;
    for (const name of this.#chainOf(sequence)) {
      if (!this.#cache.has(name) && !this.#leaders.has(name)) this.#leaders.set(name, sequence);
    }
  }

  /** What a sequence starts from. The last token is always computed, as its logits are needed. */
  take(sequence: S): FoundBlock[] {
    if (sequence.scoresPrompt) return [];
    const { tenant, ids, promptTokens } = sequence;
    return this.#cache.take(tenant, this.#reusable(sequence), ids.slice(0, promptTokens - 1));
  }

  /**
   * Keeps what a prefill step completed of a sequence, a whole block or the end of the prompt: positions [start, end),
   * whose keys and values `read` copies out, [2L, H, end − start, d].
   */
  computed(sequence: S, start: number, end: number, read: () => Float32Array): void {
    if (!sequence.keepsPrefix) return;
    const chain = this.#chainOf(sequence);
    const at = start / this.#blockTokens;
    // Absent where the block is the prompt's end.
    const name = chain.at(at);
    if (name === undefined || !this.#cache.has(name)) {
      const ids = Int32Array.from(sequence.ids.slice(start, end));
      this.#cache.keep(sequence.tenant, chain.slice(0, at), { ids, present: read() });
    }
    if (name !== undefined && this.#leaders.get(name) === sequence) this.#leaders.delete(name);
  }

  /** A sequence is prefilled, or has ended: it computes no more blocks. */
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
