/**
 * The merges of a vocabulary: pair of token ids → rank. An open-addressing hash table of typed arrays, which takes a tenth of the load
 * time and memory of a Map of 50,000 entries.
 */
import { setLimits } from "../artifacts/limits.ts";

const noMerge = -1;

export class MergeTable {
  /** left << 16 | right, by hash slot. */
  readonly #pairs: Uint32Array;
  /** Rank by hash slot, `noMerge` where the slot is free. */
  readonly #ranks: Int32Array;
  readonly #shift: number;

  /**
   * `pairs`: [M, 2] token ids, in order of rank: lower ranks merge first. Throws an Error for a pair that comes twice, and
   * for pairs chosen to fall on the same slots.
   */
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
      this.#requireShortRun(slot);
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

  /** A look-up visits the occupied slots from its own on, so their runs are bounded. */
  #requireShortRun(slot: number): void {
    const last = this.#ranks.length - 1;
    let run = 1;
    for (let at = (slot + 1) & last; this.#ranks[at] !== noMerge; at = (at + 1) & last) run++;
    for (let at = (slot - 1) & last; this.#ranks[at] !== noMerge; at = (at - 1) & last) run++;
    if (run <= setLimits.mergeRun) return;
    throw new Error(`tokenizer: ${run} merges fall on neighbouring slots, the limit mergeRun is ${setLimits.mergeRun}`);
  }
}

function packed(left: number, right: number): number {
  return ((left << 16) | right) >>> 0;
}
