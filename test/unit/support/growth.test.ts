import { expect, test } from "vitest";
import { lateGrowth, verdictOf } from "../../support/growth.ts";

/** Samples at every 5000 requests of 100,000. */
const points = (valueAt: (requests: number, i: number) => number) =>
  Array.from({ length: 21 }, (_, i) => ({ requests: 5000 * i, value: valueAt(5000 * i, i) }));

test("a line's slope is found whatever the first half shows, and in spite of disturbed samples", () => {
  const found = lateGrowth(
    points((requests, i) => (requests < 50_000 ? 7 * requests ** 2 : 3 * requests + (i % 5 === 2 ? 1e9 : 0))),
  )!;
  expect(found.slope).toBeCloseTo(30_000, 6);
  expect(found.low).toBeLessThanOrEqual(30_000);
  expect(found.high).toBeGreaterThanOrEqual(30_000);
});

test("values that go up and down are level within a wide limit, and otherwise unclear", () => {
  const found = lateGrowth(points((_, i) => 1000 + [0, 70, 20, 90, 50, 10][i % 6]))!;
  expect(verdictOf(found, found.high)).toBe("level");
  expect(verdictOf(found, found.low)).toBe("unclear");
  expect(found.low).toBeLessThan(0);
  expect(found.high).toBeGreaterThan(0);
});

test("a leak is seen through the noise", () => {
  const found = lateGrowth(points((requests, i) => requests / 100 + [0, 70, 20, 90, 50, 10][i % 6]))!;
  expect(verdictOf(found, 50)).toBe("grows");
  expect(verdictOf(found, 200)).toBe("level");
});

test("samples of the same number of requests say nothing of growth", () => {
  const few = [0, 1, 2, 2, 3, 3, 3].map((requests, i) => ({ requests, value: 7 * requests + (i % 2) }));
  const found = lateGrowth(few)!;
  for (const value of Object.values(found)) expect(Number.isFinite(value), JSON.stringify(found)).toBe(true);
  expect(lateGrowth(Array.from({ length: 6 }, (_, i) => ({ requests: 1, value: i })))).toBeNull();
  expect(lateGrowth([])).toBeNull();
});
