import { expect, test } from "vitest";
import { Refreshed } from "../../../edge/platform/refreshed.ts";

function shared(limitMs = 1000) {
  const clock = { nowMs: 0 };
  const parts = { now: () => clock.nowMs, background: () => undefined };
  return { load: new Refreshed<number>(parts, { limitMs, isShared: true }), clock };
}

test("loads once for all, and again after a failure", async () => {
  const { load } = shared();
  let loads = 0;
  const work = async () => {
    if (++loads === 1) throw new Error("first");
    return loads;
  };
  const both = await Promise.allSettled([load.get(work), load.get(work)]);
  expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect(await Promise.all([load.get(work), load.get(work)])).toEqual([2, 2]);
  expect(load.isLoading).toBe(false);
});

test("a load that takes too long fails for those that wait, and the next request begins a new one", async () => {
  const { load, clock } = shared(30);
  const hung = Promise.withResolvers<number>();
  const first = load.get(() => hung.promise);
  const second = load.get(async () => 2);
  clock.nowMs = 30;
  await Promise.all([first, second].map((load) => expect(load).rejects.toThrow("30 ms")));
  expect(await load.get(async () => 3)).toBe(3);
  hung.resolve(1);
  expect(await load.get(async () => 4)).toBe(4);
});

test("a young value is used, an older one while it is loaded again, and an expired one only if the load fails", async () => {
  let nowMs = 0;
  const loads: PromiseWithResolvers<number>[] = [];
  const load = () => {
    loads.push(Promise.withResolvers<number>());
    return loads.at(-1)!.promise;
  };
  const times = { refreshMs: 10, expireMs: 20, usableMs: 40, limitMs: 1000, isShared: false };
  const value = new Refreshed<number>({ now: () => nowMs, background: () => undefined }, times);
  const first = value.get(load);
  loads[0].resolve(1);
  expect([await first, value.last]).toEqual([1, 1]);
  nowMs = 9;
  expect([await value.get(load), loads.length]).toEqual([1, 1]);
  nowMs = 19;
  expect(await Promise.all([value.get(load), value.get(load)])).toEqual([1, 1]);
  expect(loads).toHaveLength(2);
  loads[1].resolve(2);
  await expect.poll(() => value.last).toBe(2);
  nowMs += 30;
  const waiting = value.get(load);
  expect(await value.get(load)).toBe(2);
  loads[2].reject(new Error("away"));
  expect(await waiting).toBe(2);
  nowMs += 1000;
  const own = [value.get(load), value.get(load)];
  loads[4].resolve(4);
  loads[3].resolve(3);
  expect(await Promise.all(own)).toEqual([3, 4]);
});
