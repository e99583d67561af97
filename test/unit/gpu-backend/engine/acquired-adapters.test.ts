import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import type { AdapterSource } from "../../../../gpu-backend/adapters/adapter.ts";
import { AdapterCache } from "../../../../gpu-backend/adapters/generated/adapter-cache.ts";
import { acquireAdapters, releaseAdapters } from "../../../../gpu-backend/engine/acquired-adapters.ts";
import { fakeAdapters, sequenceRequest } from "../../../support/engine-harness.ts";

/** A mixture of these centroids. */
function mixtureOf(...centroids: string[]) {
  const adapters = centroids.map((centroidId) => ({ centroidId, weight: 1 / centroids.length }));
  return sequenceRequest("a", [1, 2], { mixture: { base: 0, adapters } });
}

test("a mixture has each adapter that it names, and none when one cannot be made; nothing stays pinned", async () => {
  const source = fakeAdapters(2);
  const made = Promise.withResolvers<void>();
  const slow: AdapterSource = {
    ...source,
    async generate(id) {
      if (id === "c9") throw new Error("not finite");
      if (id === "c1") await made.promise;
      return await source.generate(id);
    },
  };
  // The cache keeps only what is pinned.
  const cache = new AdapterCache(slow, 0, () => 0);
  const warm = await acquireAdapters(cache, mixtureOf("c0"), null);
  const failed = expect(acquireAdapters(cache, mixtureOf("c0", "c9", "c2"), null)).rejects.toThrow("not finite");
  const cold = acquireAdapters(cache, mixtureOf("c1", "c0", "c1"), null);
  const cached = await Promise.race([acquireAdapters(cache, mixtureOf("c0"), null), cold]);
  expect(cached.map((one) => one.cache)).toEqual(["hit"]);
  await failed;
  await setImmediate();
  expect(cache.stats.entries).toBe(1);
  made.resolve();
  const twice = await cold;
  expect(twice.map((one) => one.cache)).toEqual(["generated", "hit", "generated"]);
  for (const acquired of [warm, cached, twice]) releaseAdapters(cache, acquired);
  expect(cache.stats.entries).toBe(0);
  expect(await acquireAdapters(cache, sequenceRequest("a", [1]), null)).toEqual([]);
});
