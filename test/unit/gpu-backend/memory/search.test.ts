/** The search of a memory against one that computes every cosine. */
import { afterAll, expect, test } from "vitest";
import { keyScale, writeKey } from "../../../../gpu-backend/memory/keys.ts";
import type { Memory } from "../../../../gpu-backend/memory/memory.ts";
import { type MemorySearch, openMemorySearch } from "../../../../gpu-backend/memory/search.ts";
import { blockKeys } from "../../../../gpu-backend/runtime/key-search.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 35;
const random = seededRandom(seed);
const D = 32;
const neighbours = 32;
const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
const stateOf = (scale: number) => Float32Array.from({ length: D }, () => scale * normal());

/** N keys of random states, some of them the same. */
function memoryOf(N: number): Memory {
  const keys = new Int8Array(N * D);
  for (let n = 0; n < N; n++) {
    const key = keys.subarray(n * D, (n + 1) * D);
    if (n % 7 === 3) key.set(keys.subarray(0, D));
    else writeKey(stateOf(1), key);
  }
  const nextIds = Int32Array.from({ length: N }, (_, n) => n % 100);
  const places = new Int32Array(N);
  return { keys, nextIds, starts: places, ends: places, documents: [{ name: "a", firstId: 0, end: N }] };
}

function bruteForce({ keys, nextIds }: Memory, state: Float32Array) {
  const length = Math.hypot(...state);
  return Array.from(nextIds, (_, position) => {
    let dot = 0;
    for (let d = 0; d < D; d++) dot += state[d] * keys[position * D + d];
    return { position, cosine: dot / length / keyScale };
  })
    .sort((a, b) => Math.fround(b.cosine) - Math.fround(a.cosine) || a.position - b.position)
    .slice(0, neighbours);
}

const opened: MemorySearch[] = [];
async function open(memory: Memory): Promise<MemorySearch> {
  const search = await openMemorySearch(memory, { hiddenSize: D, neighbours, threads: 1 });
  opened.push(search);
  return search;
}
afterAll(() => Promise.all(opened.map((search) => search.release())));

test.each([1, 20, 5000, 2 * blockKeys + 100])(`a search of %s keys finds the nearest (seed ${seed})`, async (N) => {
  const memory = memoryOf(N);
  const search = await open(memory);
  const states = Array.from({ length: 9 }, (_, s) => stateOf(s % 2 ? 0.01 : 30));
  const together = await search.nearest(states);
  for (const [s, state] of states.entries()) {
    const expected = bruteForce(memory, state);
    expect([...together[s].positions]).toEqual(expected.map(({ position }) => position));
    expect([...together[s].nextIds]).toEqual(expected.map(({ position }) => position % 100));
    expected.forEach(({ cosine }, i) => {
      expect(together[s].cosines[i]).toBeCloseTo(cosine, 6);
    });
    // A search with one state alone gives the same bits.
    expect(await search.nearest([state])).toEqual([together[s]]);
  }
});

test("equal keys come in the order of their positions", async () => {
  const memory = memoryOf(400);
  const search = await open(memory);
  const state = Float32Array.from(memory.keys.subarray(0, D));
  const [found] = await search.nearest([state]);
  const equal = Array.from({ length: neighbours }, (_, i) => (i === 0 ? 0 : 7 * i - 4));
  expect([...found.positions]).toEqual(equal);
});

test("a search of no keys finds none", async () => {
  const search = await open(memoryOf(0));
  const [found] = await search.nearest([stateOf(1)]);
  expect(found.positions).toHaveLength(0);
});
