import { expect, test } from "vitest";
import { quantileOf, tracedArrivals, traceQuantiles } from "../../bench/load/trace.ts";

const model = { contextTokens: 1024, stopIds: [500] };

test("lengths follow the trace's quantiles, cut to the context, and are the same for every run", () => {
  const { prompt, output } = traceQuantiles;
  expect([0, 0.5, 0.525, 1].map((share) => quantileOf(prompt, share))).toEqual([2, 1020, 1032.5, 14050]);
  const arrivals = tracedArrivals(10, 4000, model);
  expect(tracedArrivals(10, 4000, model)).toEqual(arrivals);
  const shareOf = (isSo: (arrival: (typeof arrivals)[number]) => boolean) =>
    arrivals.filter(isSo).length / arrivals.length;
  expect(shareOf(({ promptIds }) => promptIds.length <= prompt[5])).toBeCloseTo(0.25, 1);
  // Longer prompts are cut, so that the context has room for the median output.
  expect(Math.max(...arrivals.map(({ promptIds }) => promptIds.length))).toBe(1024 - output[10]);
  expect(shareOf(({ maxTokens }) => maxTokens <= output[10])).toBeGreaterThan(0.5);
  expect(shareOf(({ promptIds, maxTokens }) => maxTokens > 0 && promptIds.length + maxTokens <= 1024)).toBe(1);
  expect(shareOf(({ promptIds }) => promptIds.length > 0 && promptIds.every((id) => id < 500))).toBe(1);
  expect(arrivals.at(-1)!.dueMs / 4000).toBeCloseTo(100, -1);
});
