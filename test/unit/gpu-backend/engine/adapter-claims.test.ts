import { expect, test } from "vitest";
import { AdapterClaims } from "../../../../gpu-backend/engine/adapter-claims.ts";
import { Sequence, vocabularyOf } from "../../../../gpu-backend/engine/sequence.ts";
import { fakeFullAdapters, sequenceRequest } from "../../../support/engine-harness.ts";
import { fakeConfig } from "../../../support/fake-runner.ts";

const pool = { slots: 2, rank: 1, write: () => undefined };
const source = fakeFullAdapters(fakeConfig);
const cache = {
  acquire: async (id: string) => ({ adapter: await source.generate(id), cache: "hit" as const }),
  release: () => undefined,
};

/** Of a mixture of these centroids, each of which has directions of its own. The tenant is what `id` has before a colon. */
async function sequenceOf(claims: AdapterClaims, id: string, ...centroids: string[]): Promise<Sequence> {
  const adapters = centroids.map((centroidId) => ({ centroidId, weight: 1 / centroids.length }));
  const pieceOf = () => new Uint8Array();
  const vocabulary = vocabularyOf(fakeConfig, pieceOf);
  const request = sequenceRequest(id, [1, 2], { tenant: id.split(":")[0], mixture: { base: 0, adapters } });
  const sequence = new Sequence(request, vocabulary, 0);
  await claims.acquire([sequence], null, (_, acquired) => {
    if (Array.isArray(acquired)) sequence.adapters = acquired;
  });
  return sequence;
}

test("a mixture takes a slot for each of its adapters, and gives all back", async () => {
  const claims = new AdapterClaims(cache, pool);
  const [one, two] = [await sequenceOf(claims, "one", "c0", "c1"), await sequenceOf(claims, "two", "c1", "c2")];
  claims.takeSlots(one);
  expect([one.poolSlots.length, claims.poolStats?.pinned]).toEqual([2, 2]);
  // The plan starts nobody whom the pool does not hold.
  expect(() => claims.takeSlots(two)).toThrow(/every pool slot pinned/);
  claims.release(two);
  claims.release(one);
  claims.takeSlots(two);
  expect([two.poolSlots.length, claims.poolStats?.pinned]).toEqual([2, 2]);
});

test("a mixture of more adapters than there are slots is refused: it would wait forever", async () => {
  const claims = new AdapterClaims(cache, pool);
  const refused = claims.refusalOf(await sequenceOf(claims, "a", "c0", "c1", "c2"));
  expect(refused?.message).toMatch(/3 are needed, ADAPTER_SLOTS is 2/);
  // The same adapter under two names takes one slot.
  expect(claims.refusalOf(await sequenceOf(claims, "b", "c0", "c0", "c1"))).toBe(null);
});

test("a mixture gets no more slots than one tenant may pin", async () => {
  const claims = new AdapterClaims(cache, { ...pool, slots: 4 });
  const refused = claims.refusalOf(await sequenceOf(claims, "a", "c0", "c1", "c2", "c3"));
  expect(refused?.message).toMatch(/4 are needed, ADAPTER_SLOTS is 4, .* 3\./);
  expect(claims.refusalOf(await sequenceOf(claims, "b", "c0", "c1", "c2"))).toBe(null);
});
