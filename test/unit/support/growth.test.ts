import { expect, test } from "vitest";
import { lateGrowth, verdictOf } from "../../support/growth.ts";

/** Samples at every 5000 requests of 100,000. */
const points = (valueAt: (requests: number) => number) =>
  Array.from({ length: 21 }, (_, i) => ({ requests: 5000 * i, value: valueAt(5000 * i) }));

test("a line's slope is found without an error, whatever came in the first half", () => {
  const { slope, error } = lateGrowth(
    points((requests) => (requests < 50_000 ? 7 * requests ** 2 : 100 + 3 * requests)),
  );
  expect(slope).toBeCloseTo(30_000, 6);
  expect(error).toBeCloseTo(0, 3);
});

test("what jumps without going anywhere is level where the limit is wide enough, and else unclear", () => {
  const found = lateGrowth(points((requests) => 1000 + ((requests / 5000) % 2) * 100));
  expect(Math.abs(found.slope)).toBeLessThan(10);
  expect(verdictOf(found, 2 * found.error + Math.abs(found.slope))).toBe("level");
  expect(verdictOf(found, found.error)).toBe("unclear");
});

test("a leak is seen through the noise", () => {
  const found = lateGrowth(points((requests) => requests / 100 + ((requests / 5000) % 2) * 20));
  expect(verdictOf(found, 50)).toBe("grows");
  expect(verdictOf(found, 200)).toBe("level");
});
