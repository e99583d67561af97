import { expect, test } from "vitest";
import { bytesPerPosition, KvBudget, positionsFor } from "../../../../gpu-backend/kv/kv-budget.ts";

const shape = { layers: 12, heads: 12, headWidth: 64, contextTokens: 1000 };

test("a position takes its keys and values in every layer, as float32", () => {
  expect(bytesPerPosition(shape)).toBe(12 * 768 * 2 * 4);
});

test("rows come in eighths of the next power of two, whole multiples of 64, up to the context", () => {
  const lengths = [0, 64, 65, 129, 192, 193, 257, 320, 385, 448, 513, 641, 769, 897, 1000, Number.POSITIVE_INFINITY];
  const sizes = [64, 64, 128, 192, 192, 256, 320, 320, 448, 448, 640, 768, 896, 1000, 1000, 1000];
  expect(lengths.map((length) => positionsFor(length, shape))).toEqual(sizes);
  expect(positionsFor(1, { ...shape, contextTokens: 32 })).toBe(32);
});

test("all rows are as long as the longest, and what is parked counts as it is", () => {
  const budget = new KvBudget(shape, 1024 * bytesPerPosition(shape));
  const rows = (count: number, longest: number) => [longest, ...Array.from({ length: count - 1 }, () => 1)];
  expect(budget.holds(rows(8, 128), 0)).toBe(true);
  expect(budget.holds(rows(8, 129), 0)).toBe(false);
  expect(budget.holds(rows(7, 128), 128)).toBe(true);
  expect(budget.holds(rows(7, 128), 129)).toBe(false);
});

test("memory that does not hold one sequence as long as the context is refused, with what it takes", () => {
  const needed = 1000 * bytesPerPosition(shape);
  expect(() => new KvBudget(shape, needed)).not.toThrow();
  expect(() => new KvBudget(shape, needed - 1)).toThrow(
    new RegExp(`${needed - 1} bytes.*1000 positions needs ${needed}`),
  );
});
