import fc from "fast-check";
import { expect, test } from "vitest";
import { bytesPerPosition, KvBudget, kvShapeOf, positionsFor } from "../../../../gpu-backend/kv/kv-budget.ts";

const seed = 1911;
const gpt2 = {
  ...{ vocabularySize: 50_257, hiddenSize: 768, layers: 12, heads: 12, kvHeads: 12, headWidth: 64 },
  ...{ contextTokens: 1000, stopIds: [50_256] },
};
const shape = kvShapeOf(gpt2);

test("a position takes its place in every array, as float32", () => {
  expect(bytesPerPosition(shape)).toBe(25 * 768 * 4);
  // Keys and values have 3 heads of width 64, which serve 9 heads of queries. The state has the full width of 576.
  const grouped = { ...gpt2, hiddenSize: 576, layers: 30, heads: 9, kvHeads: 3 };
  expect(bytesPerPosition(kvShapeOf(grouped))).toBe((60 * 3 * 64 + 576) * 4);
  expect(bytesPerPosition(kvShapeOf(grouped, "int8"))).toBe(60 * 3 * (64 + 4) + 576 * 4);
});

/** Room for `positions` positions. A second length class costs as much as attention over `classPositions` positions. */
const budgetOf = (positions: number, classPositions = Number.POSITIVE_INFINITY) =>
  new KvBudget(shape, positions * bytesPerPosition(shape), { classBytes: classPositions * bytesPerPosition(shape) });

test("memory that does not hold one sequence as long as the context is refused, with what it takes", () => {
  const needed = 1000 * bytesPerPosition(shape);
  expect(() => new KvBudget(shape, needed, { classBytes: 0 })).not.toThrow();
  expect(() => new KvBudget(shape, needed - 1, { classBytes: 0 })).toThrow(
    new RegExp(`${needed - 1} bytes.*1000 positions needs ${needed}`),
  );
});

const rows = (...some: [count: number, positions: number, isLong?: boolean][]) =>
  some.flatMap(([count, positions, isLong = null]) =>
    Array.from({ length: count }, () => ({
      positions,
      cachedTokens: positions - 1,
      isLong: isLong as boolean | null,
    })),
  );

test("length classes: one long row beside many short ones is a class of its own, in time and in memory", () => {
  const mixed = rows([31, 60], [1, 900]);
  expect(budgetOf(1e6, 1500).boundaryFor(mixed, 0)).toBe(64);
  const lengths = mixed.map(({ positions }) => positions);
  expect(budgetOf(31 * 64 + 1000, 1500).holds(lengths, 0)).toBe(true);
  expect(budgetOf(31 * 64 + 1000, 1500).holds(lengths, 1)).toBe(false);
  expect(budgetOf(31 * 64 + 1000).holds(lengths, 0)).toBe(false);
});

test("length classes: rows stay together where a second class costs more than it saves", () => {
  const [few, many] = [rows([1, 60], [1, 900]), rows([31, 60], [1, 900])];
  expect(budgetOf(1e6, 1500).boundaryFor(few, 0)).toBe(1000);
  expect(budgetOf(1e6).boundaryFor(many, 0)).toBe(1000);
  expect(budgetOf(1e6, 1500).boundaryFor(rows([8, 510], [8, 514]), 0)).toBe(640);
  // These two budgets have no room for all rows in one class.
  expect(budgetOf(1064, 1500).boundaryFor(few, 0)).toBe(64);
  expect(budgetOf(8 * (512 + 640), 1500).boundaryFor(rows([8, 510], [8, 514]), 0)).toBe(512);
});

test("length classes: memory that holds rows at their most holds them at any shorter length, in the classes they are in then", () => {
  const [most, part] = [fc.integer({ min: 1, max: 1000 }), fc.double({ min: 0, max: 1, noNaN: true })];
  const row = fc.record({ most, part, isLong: fc.constantFrom(null, false, true) });
  let tight = 0;
  fc.assert(
    fc.property(fc.array(row, { minLength: 1, maxLength: 12 }), fc.nat(500), fc.nat(3000), (some, parked, pass) => {
      const lengths = some.map(({ most }) => most);
      // The budget has room for only a few more positions than the rows need.
      let positions = 1000;
      while (!budgetOf(positions, pass).holds(lengths, parked)) positions += 64;
      const budget = budgetOf(positions, pass);
      const running = some.map(({ most, part, isLong }) => {
        const needed = part < 0.5 ? most : Math.ceil(part * most);
        return { positions: needed, cachedTokens: needed - 1, isLong };
      });
      const boundary = budget.boundaryFor(running, parked);
      const classes = Object.values(Object.groupBy(running, (one) => `${one.positions > boundary}`));
      const taken = classes.reduce((sum, own) => {
        const longest = Math.max(...own!.map((one) => one.positions));
        return sum + own!.length * positionsFor(longest, shape);
      }, parked);
      expect(taken).toBeLessThanOrEqual(positions);
      if (taken > 0.9 * positions) tight++;
    }),
    { seed, numRuns: 300 },
  );
  expect(tight).toBeGreaterThan(20);
});
