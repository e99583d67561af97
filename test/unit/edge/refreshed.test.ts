import { expect, test } from "vitest";
import { Refreshed } from "../../../edge/platform/refreshed.ts";

test("a load that takes too long fails for those that wait, the next request begins a new one, and a late result is dropped", async () => {
  let nowMs = 0;
  const parts = { now: () => nowMs, background: () => undefined };
  const times = { refreshMs: 10, usableMs: 40, limitMs: 30 };
  const load = new Refreshed<number>(parts, { ...times, isShared: true });
  const hung = Promise.withResolvers<number>();
  const first = load.get(() => hung.promise);
  const second = load.get(async () => 2);
  nowMs = 30;
  await Promise.all([first, second].map((waiting) => expect(waiting).rejects.toThrow("30 ms")));
  expect(await load.get(async () => 3)).toBe(3);
  hung.resolve(1);
  await hung.promise;
  expect(await load.get(async () => 4)).toBe(3);
  nowMs += 3_600_000;
  expect(await load.get(() => Promise.reject(new Error("away")))).toBe(3);
});
