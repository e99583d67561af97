/** Finds near-duplicate texts by their n-grams of words. Words are compared in lower case, without punctuation. */

const words = 8;
/** One n-gram in so many is kept, chosen by its hash, so that the same n-gram is kept wherever it occurs. */
const samplingInterval = 4;

/** Numbers words, and hashes their n-grams. The same instance must hash all texts that are compared. */
export class Shingler {
  readonly #numbers = new Map<string, number>();

  /** Hashes of the distinct n-grams that are kept. */
  of(text: string): Set<number> {
    const ids = (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).map((word) => this.#numberOf(word));
    const hashes = new Set<number>();
    for (let end = words; end <= ids.length; end++) {
      let hash = 0;
      for (let i = end - words; i < end; i++) hash = mixed(Math.imul(hash, 31) + ids[i]);
      if ((hash >>> 0) % samplingInterval === 0) hashes.add(hash);
    }
    return hashes;
  }

  #numberOf(word: string): number {
    const known = this.#numbers.get(word);
    if (known !== undefined) return known;
    this.#numbers.set(word, this.#numbers.size + 1);
    return this.#numbers.size;
  }
}

/** The finaliser of MurmurHash3. */
function mixed(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/** Share of `of` that is in `within`; 0 where `of` is empty. */
export function overlap(of: ReadonlySet<number>, within: { has(hash: number): boolean }): number {
  let shared = 0;
  for (const hash of of) if (within.has(hash)) shared++;
  return of.size === 0 ? 0 : shared / of.size;
}

export interface GroupedText {
  /** Texts of one corpus and split have one group; within it near-duplicates do no harm. */
  group: string;
  text: string;
}

/** A text with at least this share of its n-grams in texts of other groups is a near-duplicate. */
export const nearDuplicate = 0.5;
/** Shorter texts are judged by too few n-grams. */
const minShingles = 4;

/** Indexes of the texts that are near-duplicates of texts of other groups that come before them. */
export function nearDuplicates(texts: readonly GroupedText[], shingler: Shingler): number[] {
  const several = "";
  const groupOf = new Map<number, string>();
  const found: number[] = [];
  for (const [index, { group, text }] of texts.entries()) {
    const shingles = shingler.of(text);
    const elsewhere = { has: (hash: number) => (groupOf.get(hash) ?? group) !== group };
    if (shingles.size >= minShingles && overlap(shingles, elsewhere) >= nearDuplicate) {
      found.push(index);
      continue;
    }
    for (const hash of shingles) {
      const before = groupOf.get(hash);
      groupOf.set(hash, before === undefined || before === group ? group : several);
    }
  }
  return found;
}
