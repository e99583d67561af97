import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import type { AdapterSource } from "../../../../gpu-backend/adapters/adapter.ts";
import { AdapterCache } from "../../../../gpu-backend/adapters/generated/adapter-cache.ts";
import { AdapterClaims } from "../../../../gpu-backend/engine/adapter-claims.ts";
import { Sequence, vocabularyOf } from "../../../../gpu-backend/engine/sequence.ts";
import { fakeAdapters, sequenceRequest } from "../../../support/engine-harness.ts";
import { fakeConfig } from "../../../support/fake-runner.ts";

const source = fakeAdapters(2);

/** A mixture of these centroids. */
function mixtureOf(id: string, ...centroids: string[]): Sequence {
  const adapters = centroids.map((centroidId) => ({ centroidId, weight: 1 / centroids.length }));
  const vocabulary = vocabularyOf(fakeConfig, () => new Uint8Array());
  return new Sequence(sequenceRequest(id, [1, 2], { mixture: { base: 0, adapters } }), vocabulary, 0);
}

describe("mixtures of one micro-batch", () => {
  /** What each got, in order. Adapters other than c0 are made when `make` is called for them, and c9 never can be. */
  async function claimed(...mixtures: Sequence[]) {
    const asked = new Map<string, () => void>();
    const slow: AdapterSource = {
      ...source,
      async generate(id) {
        if (id === "c9") throw new Error("not finite");
        if (id !== "c0") {
          const made = Promise.withResolvers<void>();
          asked.set(id, made.resolve);
          await made.promise;
        }
        return await source.generate(id);
      },
    };
    const adapters = new AdapterCache(slow, 0, () => 0);
    const kept = await adapters.acquire("c0", 1);
    const told: string[] = [];
    const claims = new AdapterClaims(adapters);
    const all = claims.acquire(mixtures, null, (sequence, acquired) => {
      told.push(`${sequence.id} ${Array.isArray(acquired) ? acquired.map((one) => one.cache) : acquired.kind}`);
      if (Array.isArray(acquired)) sequence.adapters = acquired;
    });
    await setImmediate();
    return {
      ...{ all, told },
      asked: () => [...asked.keys()],
      make: async (id: string) => {
        asked.get(id)!();
        await setImmediate();
      },
      /** Whether nothing is pinned once all have ended: the cache keeps only what is. */
      isReleased: () => {
        for (const sequence of mixtures) if (sequence.adapters.length > 0) claims.release(sequence);
        adapters.release(kept.adapter);
        return adapters.stats.entries === 0;
      },
    };
  }

  test("each is let in once its own adapters are there: the cached first, then those that lack fewest", async () => {
    const { all, told, asked, make, isReleased } = await claimed(
      mixtureOf("cold", "c1", "c2"),
      mixtureOf("warm", "c0"),
      mixtureOf("half", "c0", "c3"),
      mixtureOf("twice", "c2", "c0", "c2"),
      mixtureOf("base"),
    );
    expect([told, asked()]).toEqual([["base ", "warm hit"], ["c3"]]);
    await make("c3");
    expect(told.slice(2)).toEqual(["half hit,generated"]);
    await make("c2");
    expect(told.slice(3)).toEqual(["twice generated,hit,generated"]);
    await make("c1");
    expect(told.slice(4)).toEqual(["cold generated,generated"]);
    await all;
    expect(isReleased()).toBe(true);
  });

  test("of one that has ended, or cannot have an adapter, no other is made and nothing stays pinned", async () => {
    const [ended, other, failed, last] = [
      mixtureOf("ended", "c1"),
      mixtureOf("other", "c0", "c5", "c5"),
      mixtureOf("failed", "c0", "c9", "c2"),
      mixtureOf("last", "c3", "c4", "c1"),
    ];
    const { all, told, asked, make, isReleased } = await claimed(ended, other, failed, last);
    expect(asked()).toEqual(["c1"]);
    ended.ended = other.ended = true;
    await make("c1");
    expect(told).toEqual(["failed internal"]);
    for (const id of ["c3", "c4"]) await make(id);
    expect([told.slice(1), asked()]).toEqual([["last generated,generated,generated"], ["c1", "c3", "c4"]]);
    await all;
    expect(isReleased()).toBe(true);
  });
});
