import fc from "fast-check";
import { expect, test } from "vitest";
import { PhaseCost } from "../../../../gpu-backend/engine/phase-cost.ts";

const seed = 1741;

test("of any cost that grows evenly with the size, two sizes tell all", () => {
  console.log(`seed ${seed}`);
  const even = fc.record({
    base: fc.double({ min: 0, max: 50, noNaN: true }),
    each: fc.double({ min: 0, max: 5, noNaN: true }),
    sizes: fc.uniqueArray(fc.integer({ min: 1, max: 300 }), { minLength: 2, maxLength: 20 }),
    asked: fc.integer({ min: 1, max: 600 }),
  });
  fc.assert(
    fc.property(even, ({ base, each, sizes, asked }) => {
      const cost = new PhaseCost();
      // Far enough from each other to be two points.
      const [first, ...others] = sizes.toSorted((a, b) => a - b);
      const apart = others.filter((size) => size >= 1.5 * first);
      fc.pre(apart.length > 0);
      for (const size of [first, ...apart]) cost.ran(size, base + each * size);
      expect(cost.msOf(asked)).toBeCloseTo(base + each * asked, 6);
    }),
    { seed, numRuns: 500 },
  );
});

test("knows nothing at first, takes one size in proportion, and follows what changes", () => {
  const cost = new PhaseCost();
  expect(cost.msOf(8)).toBe(0);
  cost.ran(8, 16);
  expect([0, 4, 8, 16].map((size) => cost.msOf(size))).toEqual([0, 8, 16, 32]);
  for (let i = 0; i < 100; i++) cost.ran(8, 4);
  expect(cost.msOf(8)).toBeCloseTo(4, 3);
});

test("a pause of the process is hardly seen", () => {
  const cost = new PhaseCost();
  for (let i = 0; i < 10; i++) cost.ran(2, 1);
  cost.ran(2, 1000);
  expect(cost.msOf(2)).toBeLessThan(1.3);
});
