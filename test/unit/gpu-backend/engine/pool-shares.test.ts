import { expect, test } from "vitest";
import { mostPoolSlots, poolHolds } from "../../../../gpu-backend/engine/pool-shares.ts";

const of = (tenant: string, ...poolAdapters: string[]) => ({ tenant, poolAdapters });

test("a quarter of the slots, rounded down, is kept from whoever has slots", () => {
  expect([0, 1, 3, 4, 7, 8].map(mostPoolSlots)).toEqual([0, 1, 3, 3, 6, 6]);
  const running = ["a", "b", "c", "d", "e", "f"].map((adapter) => of("one", adapter));
  expect(poolHolds(of("one", "g"), running, 8)).toBe(false);
  expect(poolHolds(of("one", "a"), running, 8)).toBe(true);
  expect(poolHolds(of("one"), running, 8)).toBe(true);
});

test("the first slot of a tenant comes out of the reserve, its second does not, also where another pins the adapter", () => {
  const running = ["a", "b", "c"].map((adapter) => of("one", adapter));
  expect(poolHolds(of("two", "x"), running, 4)).toBe(true);
  expect(poolHolds(of("two", "x", "y"), running, 4)).toBe(false);
  running.push(of("two", "x"));
  expect(poolHolds(of("two", "a"), running, 4)).toBe(false);
  expect(poolHolds(of("two", "x"), running, 4)).toBe(true);
  expect(poolHolds(of("three", "y"), running, 4)).toBe(false);
  expect(poolHolds(of("three", "a"), running, 4)).toBe(true);
});
