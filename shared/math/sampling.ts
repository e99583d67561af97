/** The only randomness in serving. Numbers depend on (seed, position) alone, so batches and backends do not matter. */

const rounds = 10;
const multiplier = 0xd256d193;
const weyl = 0x9e3779b9;

/** Philox2x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): for a fixed key, a permutation of counter pairs. */
export function philox2x32(counter0: number, counter1: number, key: number): [number, number] {
  let left = counter0 >>> 0;
  let right = counter1 >>> 0;
  let roundKey = key >>> 0;
  for (let round = 0; round < rounds; round++) {
    const high = multiplyHigh(multiplier, left);
    const low = Math.imul(multiplier, left) >>> 0;
    left = (high ^ roundKey ^ right) >>> 0;
    right = low;
    roundKey = (roundKey + weyl) >>> 0;
  }
  return [left, right];
}

/** A number in [0, 1) with 53 random bits. */
export function uniformAt(seed: number, position: number): number {
  const [high, low] = philox2x32(position, 0, seed);
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

/** The seed (uint32) of a choice. Choices have different seeds, because `scramble` is a permutation of uint32. */
export function deriveSeed(seed: number, choice: number): number {
  return scramble(scramble(seed) ^ choice);
}

/** MurmurHash3's 32-bit finaliser: a permutation of uint32. The offset keeps 0 from becoming 0. */
function scramble(word: number): number {
  let x = (word + weyl) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** The upper 32 bits of a product of uint32. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = (middle % 2 ** 16) + aLow * bHigh;
  return (aHigh * bHigh + Math.floor(middle / 2 ** 16) + Math.floor(carry / 2 ** 16)) >>> 0;
}
