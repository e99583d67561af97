import { expect, test } from "vitest";
import { Budget, FirstFrameTimes } from "../../../edge/dispatch/retries.ts";

test("a budget starts full, grants whole units, and is earned back up to its capacity", () => {
  const budget = new Budget({ capacity: 3, earned: 0.5 });
  expect([budget.take(2), budget.take(2), budget.take(1)]).toEqual([2, 1, 0]);
  budget.earn(1);
  expect(budget.take(1)).toBe(0);
  budget.earn(1);
  expect(budget.take(9)).toBe(1);
  budget.earn(1000);
  expect(budget.take(1000)).toBe(3);
});

test("while everything fails, no more is repeated than it holds", () => {
  const budget = new Budget({ capacity: 10, earned: 0.2 });
  let repeated = 0;
  for (let call = 0; call < 1000; call++) repeated += budget.take(1);
  expect(repeated).toBe(10);
});

test("late is half as much again as the 95th percentile of the last times, once there are enough", () => {
  const times = new FirstFrameTimes();
  for (let i = 0; i < 19; i++) times.record(200);
  expect(times.lateMs).toBe(1000);
  times.record(200);
  expect(times.lateMs).toBe(300);
  for (let i = 0; i < 64; i++) times.record(i < 60 ? 400 : 10_000);
  expect(times.lateMs).toBeCloseTo(15_000);
  for (let i = 0; i < 64; i++) times.record(1);
  expect(times.lateMs).toBe(100);
});

test("the last times are those that were recorded last, however often they are asked for", () => {
  const times = new FirstFrameTimes();
  for (let n = 1; n <= 200; n++) {
    times.record(1000 - n);
    if (n < 20) continue;
    const last = Math.min(n, 64);
    expect(times.lateMs).toBe(1.5 * (1000 - n + Math.floor(0.95 * last)));
  }
});
