import { expect, test } from "vitest";
import { SharedLoad } from "../../../edge/platform/shared-load.ts";

function sharedLoad(limitMs = 1000) {
  const clock = { nowMs: 0 };
  const load = new SharedLoad<number>({ limitMs, now: () => clock.nowMs, background: () => undefined });
  return { load, clock };
}

test("loads once for all, and again after a failure", async () => {
  const { load } = sharedLoad();
  let loads = 0;
  const work = async () => {
    if (++loads === 1) throw new Error("first");
    return loads;
  };
  const both = await Promise.allSettled([load.run(work), load.run(work)]);
  expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect(await Promise.all([load.run(work), load.run(work)])).toEqual([2, 2]);
  expect(load.isRunning).toBe(false);
});

test("one that takes too long fails for those that wait, and the next request begins its own", async () => {
  const { load, clock } = sharedLoad(30);
  const hung = Promise.withResolvers<number>();
  const first = load.run(() => hung.promise);
  const second = load.run(async () => 2);
  clock.nowMs = 30;
  await Promise.all([first, second].map((load) => expect(load).rejects.toThrow("30 ms")));
  expect(await load.run(async () => 3)).toBe(3);
  hung.resolve(1);
  expect(await load.run(async () => 4)).toBe(4);
});
