import { expect, test } from "vitest";
import type { Adapter, AdapterSource } from "../../../../gpu-backend/adapters/adapter.ts";
import { AdapterCache } from "../../../../gpu-backend/adapters/generated/adapter-cache.ts";

/** A clock that advances by 5 ms whenever it is read. */
let clockMs = 0;
const now = () => (clockMs += 5);

/** Adapters of 100 bytes. Each generation waits until the test lets it finish. */
function slowSource() {
  const waiting: { centroidId: string; finish: () => void; fail: (error: Error) => void }[] = [];
  const source: AdapterSource = {
    hashOf: (centroidId) => (centroidId === "nowhere" ? null : `hash-${centroidId}`),
    generate(centroidId) {
      return new Promise<Adapter>((resolve, reject) => {
        const own = { hash: `hash-${centroidId}`, gates: new Float32Array(1) };
        const adapter = { ...own, changes: [], scale: 1, bytes: 100 };
        waiting.push({ centroidId, finish: () => resolve(adapter), fail: reject });
      });
    },
  };
  return { source, waiting };
}

test("an adapter is generated once however many ask at the same time; later requests hit", async () => {
  const { source, waiting } = slowSource();
  const cache = new AdapterCache(source, now);
  const asked = Array.from({ length: 20 }, () => cache.acquire("c0"));
  expect(waiting.length).toBe(1);
  waiting[0].finish();
  const acquired = await Promise.all(asked);
  expect(new Set(acquired.map(({ adapter }) => adapter)).size).toBe(1);
  expect(acquired.every(({ cache: result }) => result === "generated")).toBe(true);
  expect((await cache.acquire("c0")).cache).toBe("hit");
  expect(cache.stats).toEqual({ entries: 1, bytes: 100, hits: 1, generated: 1, evictions: 0, generationMs: 5 });
});

test("a failure is not remembered, and an unknown centroid is refused", async () => {
  const { source, waiting } = slowSource();
  const cache = new AdapterCache(source, now);
  const first = cache.acquire("c0");
  waiting[0].fail(new Error("out of memory"));
  await expect(first).rejects.toThrow("out of memory");
  const second = cache.acquire("c0");
  waiting[1].finish();
  expect((await second).cache).toBe("generated");
  await expect(cache.acquire("nowhere")).rejects.toThrow(/no adapter nowhere/);
});

test("the least recently used adapter is dropped to stay within the bytes", async () => {
  const { source, waiting } = slowSource();
  const cache = new AdapterCache(source, now, 200);
  const get = async (centroidId: string) => {
    const acquired = cache.acquire(centroidId);
    waiting.find((w) => w.centroidId === centroidId)?.finish();
    return (await acquired).cache;
  };
  await get("c0");
  await get("c1");
  expect(await get("c0")).toBe("hit");
  await get("c2");
  expect(cache.stats).toMatchObject({ entries: 2, bytes: 200, evictions: 1 });
  expect([await get("c0"), await get("c2")]).toEqual(["hit", "hit"]);
});
