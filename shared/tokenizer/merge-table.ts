/** Merge ranks by pair of token ids. Open addressing in typed arrays takes a tenth of a Map's load time and bytes. */
import { setLimits } from "../artifacts/limits.ts";

const noMerge = -1;
/** Marks a free slot, in place of the first id of a pair. */
const free = 0xffffffff;

export class MergeTable {
  /** The two token ids of each hash slot, [slots, 2]. */
  readonly #pairs: Uint32Array;
  readonly #ranks: Uint32Array;
  readonly #shift: number;

  /** `pairs` [M, 2]: the pair of rank 0 first. Throws an Error if a pair occurs twice, or if too many pairs collide. */
  constructor(pairs: Uint32Array) {
    const merges = pairs.length / 2;
    // The table is at most half full, so that look-ups are short.
    const bits = Math.max(4, Math.ceil(Math.log2(merges * 2 + 1)));
    this.#shift = 32 - bits;
    this.#pairs = new Uint32Array(2 * 2 ** bits).fill(free);
    this.#ranks = new Uint32Array(2 ** bits);
    for (let rank = 0; rank < merges; rank++) {
      const [left, right] = [pairs[2 * rank], pairs[2 * rank + 1]];
      const slot = this.#slotOf(left, right);
      if (!this.#isFree(slot)) throw new Error(`tokenizer: merges ${this.#ranks[slot]} and ${rank} are the same pair`);
      this.#pairs[2 * slot] = left;
      this.#pairs[2 * slot + 1] = right;
      this.#ranks[slot] = rank;
      this.#requireShortRun(slot);
    }
  }

  /** Rank of the merge of two ids; -1 if they never merge. */
  rankOf(left: number, right: number): number {
    const slot = this.#slotOf(left, right);
    return this.#isFree(slot) ? noMerge : this.#ranks[slot];
  }

  #slotOf(left: number, right: number): number {
    const pairs = this.#pairs;
    const last = this.#ranks.length - 1;
    const pair = Math.imul(left, 0x85ebca6b) ^ right;
    let slot = Math.imul(pair ^ (pair >>> 15), 0x9e3779b1) >>> this.#shift;
    while (pairs[2 * slot] !== free && (pairs[2 * slot] !== left || pairs[2 * slot + 1] !== right)) {
      slot = (slot + 1) & last;
    }
    return slot;
  }

  #isFree(slot: number): boolean {
    return this.#pairs[2 * slot] === free;
  }

  /** Bounds runs of occupied slots, because a look-up may visit a whole run. */
  #requireShortRun(slot: number): void {
    const last = this.#ranks.length - 1;
    let run = 1;
    for (let at = (slot + 1) & last; !this.#isFree(at); at = (at + 1) & last) run++;
    for (let at = (slot - 1) & last; !this.#isFree(at); at = (at - 1) & last) run++;
    if (run <= setLimits.mergeRun) return;
    throw new Error(`tokenizer: ${run} merges fall on neighbouring slots, the limit mergeRun is ${setLimits.mergeRun}`);
  }
}
