import { expect, test } from "vitest";
import { Budget } from "../../../edge/dispatch/retries.ts";

test("a budget starts full, grants whole units, and is earned back up to its capacity", () => {
  const budget = new Budget({ capacity: 3, earned: 0.5 });
  const taken = (tries: number) => Array.from({ length: tries }, () => budget.take()).filter(Boolean).length;
  expect(taken(5)).toBe(3);
  budget.earn();
  expect(taken(1)).toBe(0);
  budget.earn();
  expect(taken(9)).toBe(1);
  for (let i = 0; i < 1000; i++) budget.earn();
  expect(taken(1000)).toBe(3);
});
