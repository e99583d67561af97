import fc from "fast-check";
import { expect, test } from "vitest";
import { Pace } from "../../../edge/tenants/pace.ts";
import { limits as requestLimits } from "../../../shared/contracts/limits.ts";

const limits = {
  ...{ burst: 4, intervalMs: 2, bodyMsPerMebibyte: 38, maxDelayMs: 20 },
  ...{ refusedMs: 500, maxKeys: 3 },
};
const mebibyte = 2 ** 20;
/** Start times of one key's requests that arrive at these times. */
const startsOf = (arrivals: readonly number[], pace = new Pace(limits), bodyBytes = 0) =>
  arrivals.map((ms) => ms + pace.waitMs(1, ms, bodyBytes));

test("a larger body takes its share of the thread's time, and waits longer for it", () => {
  const arrivals = Array.from({ length: 20 }, () => 1000);
  const starts = startsOf(arrivals, new Pace(limits), mebibyte);
  // Large requests may start up to 6 ms early, as small ones may: the second starts after 34 ms instead of 40.
  expect(starts.slice(0, 4)).toEqual([1000, 1034, 1074, 1114]);
  expect(Math.max(...starts)).toBe(1400);
});

test("a small request waits no longer than the longest, whatever bodies came before, and does not shorten their wait", () => {
  const pace = new Pace(limits);
  for (let i = 0; i < 5; i++) pace.waitMs(1, 0, mebibyte);
  expect(pace.waitMs(1, 0, 0)).toBe(limits.maxDelayMs);
  expect(pace.waitMs(1, 0, mebibyte)).toBe(200 - 6);
});

test("in order, in bounds, and never more at once than `burst` and what the time since then allows", () => {
  const gaps = fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 200 });
  fc.assert(
    fc.property(gaps, (steps) => {
      let nowMs = 0;
      const arrivals = steps.map((step) => {
        nowMs += step;
        return nowMs;
      });
      const starts = startsOf(arrivals);
      for (const [i, start] of starts.entries()) {
        expect(start - arrivals[i]).toBeLessThanOrEqual(limits.maxDelayMs);
        if (i > 0) expect(start).toBeGreaterThanOrEqual(starts[i - 1]);
        // A request that waits, but less than the maximum, comes after a full burst.
        const waitMs = start - arrivals[i];
        if (waitMs === 0 || waitMs >= limits.maxDelayMs) continue;
        const others = starts.filter((other, j) => j < i && other > start - limits.burst * limits.intervalMs);
        expect(others.length).toBeGreaterThanOrEqual(limits.burst - 1);
      }
    }),
  );
});

test("requests of another key do not wait, and a key that pauses or is forgotten starts anew", () => {
  const pace = new Pace(limits);
  for (let i = 0; i < 10; i++) for (const key of [1, 2]) pace.waitMs(key, 0, 0);
  expect(pace.waitMs(1, 0, 0)).toBeGreaterThan(0);
  expect([pace.waitMs(3, 0, 0), pace.waitMs(2, 1000, 0)]).toEqual([0, 0]);
  // The pace remembers three keys, so a fourth pushes out the first.
  pace.waitMs(4, 0, 0);
  expect(pace.waitMs(1, 0, 0)).toBe(0);
});

test("after a refusal a key has no burst until the refusal is over or is no longer remembered", () => {
  for (const [forMs, untilMs] of [
    [300, 300],
    [9999, limits.refusedMs],
  ]) {
    const pace = new Pace(limits);
    pace.waitMs(1, 0, 0);
    pace.refused(1, 0, forMs);
    expect(startsOf([untilMs - 1, untilMs - 1, untilMs - 1], pace)).toEqual([-1, 1, 3].map((ms) => untilMs + ms));
    expect(startsOf([untilMs + 10, untilMs + 10, untilMs + 10], pace)).toEqual(Array(3).fill(untilMs + 10));
  }
});

test("a small request waits for a second at most, the largest body for 31", () => {
  expect(requestLimits.bodyBytes).toBe(mebibyte);
  const longestSeconds = [0, mebibyte].map((bytes) => {
    const pace = new Pace();
    return Math.max(...Array.from({ length: 1000 }, () => pace.waitMs(1, 0, bytes))) / 1000;
  });
  expect(longestSeconds).toEqual([1, 31]);
});
