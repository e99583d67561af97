import { expect, it } from "vitest";
import { deriveSeed, philox2x32, uniformAt } from "../../../shared/math/sampling.ts";

/** Chi-square statistic of counts that are expected to be equal. */
function chiSquare(counts: number[]): number {
  const expected = counts.reduce((a, b) => a + b) / counts.length;
  return counts.reduce((total, count) => total + (count - expected) ** 2 / expected, 0);
}

/** A chi-square of k degrees of freedom exceeds this once in about a million. */
function chiSquareLimit(degrees: number): number {
  return degrees + 4.75 * Math.sqrt(2 * degrees) + 10;
}

it.each([
  [0, 0, 0, 0xff1dae59, 0x6cd10df2],
  [0xffffffff, 0xffffffff, 0xffffffff, 0x2c3f628b, 0xab4fd7ad],
  [0x243f6a88, 0x85a308d3, 0x13198a2e, 0xdd7ce038, 0xf62a4c12],
])("philox2x32 gives Random123's known answer for counter %d %d, key %d", (counter0, counter1, key, left, right) => {
  expect(philox2x32(counter0, counter1, key)).toEqual([left, right]);
});

it("uniformAt depends on seed and position alone", () => {
  const forwards = Array.from({ length: 100 }, (_, position) => uniformAt(42, position));
  const backwards = Array.from({ length: 100 }, (_, i) => uniformAt(42, 99 - i)).reverse();
  expect(backwards).toEqual(forwards);
  // This draw must never change: resumed sequences rely on it.
  expect(uniformAt(0, 0)).toBe(Number((0xff1dae59n >> 5n) * 2n ** 26n + (0x6cd10df2n >> 6n)) / 2 ** 53);
});

it.each([
  ["positions of one seed", (n: number) => uniformAt(1, n)],
  ["seeds at one position", (n: number) => uniformAt(n, 0)],
])("uniformAt is uniform over %s", (_, draw) => {
  const counts = new Array(256).fill(0);
  for (let n = 0; n < 200_000; n++) counts[Math.floor(draw(n) * 256)]++;
  // No draw fell outside [0, 1).
  expect(Object.keys(counts)).toHaveLength(256);
  const value = chiSquare(counts);
  expect(value).toBeLessThan(chiSquareLimit(255));
});

it("deriveSeed gives the choices of one request different uint32 seeds, and hardly any of another request's", () => {
  const all = new Set<number>();
  for (const seed of [0, 1, 42, 0x7fffffff, 0xffffffff]) {
    const seeds = Array.from({ length: 10_000 }, (_, choice) => deriveSeed(seed, choice));
    expect(new Set(seeds).size).toBe(10_000);
    for (const one of seeds) all.add(one);
    expect(seeds.every((s) => Number.isInteger(s) && s >= 0 && s <= 0xffffffff)).toBe(true);
  }
  // Among 50,000 random uint32, 0.3 collisions are expected.
  expect(all.size).toBeGreaterThanOrEqual(49_990);
});
