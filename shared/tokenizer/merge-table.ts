/**
 * The merges of a vocabulary as a hash table: pair of token ids → rank. An open-addressing table of typed arrays,
 * because a Map of 50,000 entries costs ten times the load time and memory.
 */

const noMerge = -1;

export class MergeTable {
  /** left << 16 | right, by hash slot. */
  readonly #pairs: Uint32Array;
  /** Rank by hash slot, `noMerge` where the slot is free. */
  readonly #ranks: Int32Array;
  readonly #shift: number;

  /** `pairs`: [M, 2] token ids, in order of rank: lower ranks merge first. */
  constructor(pairs: Uint16Array) {
    const merges = pairs.length / 2;
    // At most half full, so that a probe is short.
    const bits = Math.max(4, Math.ceil(Math.log2(merges * 2 + 1)));
    this.#shift = 32 - bits;
    this.#pairs = new Uint32Array(2 ** bits);
    this.#ranks = new Int32Array(2 ** bits).fill(noMerge);
    for (let rank = 0; rank < merges; rank++) {
      const pair = packed(pairs[2 * rank], pairs[2 * rank + 1]);
      const slot = this.#slotOf(pair);
      if (this.#ranks[slot] !== noMerge)
        throw new Error(`tokenizer: merges ${this.#ranks[slot]} and ${rank} are the same pair`);
      this.#pairs[slot] = pair;
      this.#ranks[slot] = rank;
    }
  }

  /** Rank of the merge of two neighbouring token ids, or -1 if they never merge. */
  rankOf(left: number, right: number): number {
    return this.#ranks[this.#slotOf(packed(left, right))];
  }

  /** The slot that holds `pair`, or the free slot where it would go. */
  #slotOf(pair: number): number {
    let slot = Math.imul(pair ^ (pair >>> 15), 0x9e3779b1) >>> this.#shift;
    while (this.#ranks[slot] !== noMerge && this.#pairs[slot] !== pair) slot = (slot + 1) & (this.#ranks.length - 1);
    return slot;
  }
}

function packed(left: number, right: number): number {
  return ((left << 16) | right) >>> 0;
}
