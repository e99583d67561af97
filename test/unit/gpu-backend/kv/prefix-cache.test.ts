import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LruPolicy } from "../../../../gpu-backend/adapters/lru.ts";
import { blockNames, PrefixCache } from "../../../../gpu-backend/kv/prefix-cache.ts";

const seed = 1720;
const blockTokens = 4;
const blockBytes = 8;
const ids = (length: number, salt = 0) => Array.from({ length }, (_, i) => i * 3 + salt);
const namesOf = (tenant: string, tokenIds: number[]) => blockNames(tenant, tokenIds, blockTokens);
const cacheOf = (blocks: number) => new PrefixCache(new LruPolicy(blocks * blockBytes));

/** Computes whatever is missing of a prompt; returns how many blocks were there. */
function use(cache: PrefixCache, names: readonly string[]): number {
  const found = cache.take(names, blockTokens);
  found.forEach((block, i) => {
    expect(block[0]).toBe(markOf(names[i]));
  });
  for (let i = found.length; i < names.length; i++) {
    cache.keep(names.slice(0, i + 1), Float32Array.of(markOf(names[i]), 0));
  }
  return found.length;
}
const markOf = (name: string) => Number.parseInt(name.slice(0, 5), 16);

describe("names", () => {
  test("are as many as whole blocks, and a longer prompt's begin with a shorter one's", () => {
    expect([0, 3, 4, 7, 8].map((length) => namesOf("t", ids(length)).length)).toEqual([0, 0, 1, 1, 2]);
    expect(namesOf("t", ids(13)).slice(0, 2)).toEqual(namesOf("t", ids(8)));
  });

  test("tell tenants apart, and every token before, in its place", () => {
    const [, name] = namesOf("t", ids(8));
    const others = [
      namesOf("u", ids(8))[1],
      namesOf("t", ids(4))[0],
      ...Array.from({ length: 8 }, (_, i) => namesOf("t", ids(8).with(i, 999))[1]),
      namesOf("t", [...ids(8).slice(4), ...ids(4)])[1],
    ];
    expect(new Set([name, ...others]).size).toBe(others.length + 1);
  });
});

test("gives back what was kept, up to the first block that is missing", () => {
  const cache = cacheOf(10);
  expect(use(cache, namesOf("t", ids(16)))).toBe(0);
  expect(use(cache, namesOf("t", ids(16)))).toBe(4);
  expect(use(cache, namesOf("t", [...ids(8), ...ids(8, 1)]))).toBe(2);
  expect(use(cache, namesOf("u", ids(16)))).toBe(0);
  expect(cache.stats).toEqual({ hits: 2, misses: 2, reusedTokens: 24, blocks: 10, bytes: 80, evictions: 0 });
});

test("drops the least recently used prompt from its end", () => {
  const cache = cacheOf(6);
  const [a, b, c] = [0, 100, 200].map((salt) => namesOf("t", ids(12, salt)));
  use(cache, a);
  use(cache, b);
  use(cache, a);
  use(cache, c.slice(0, 2));
  expect([...a, ...b, ...c].map((name) => cache.has(name))).toEqual([
    ...[true, true, true],
    ...[true, false, false],
    ...[true, true, false],
  ]);
  expect(cache.stats.evictions).toBe(2);
});

test("any use keeps the bound, never keeps what cannot be found, and gives each block its own content", () => {
  console.log(`seed ${seed}`);
  const prompt = fc.record({
    tenant: fc.constantFrom("t", "u"),
    salts: fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 5 }),
  });
  fc.assert(
    fc.property(fc.array(prompt, { maxLength: 30 }), fc.integer({ min: 0, max: 8 }), (prompts, blocks) => {
      const cache = cacheOf(blocks);
      const chains = prompts.map(({ tenant, salts }) =>
        namesOf(
          tenant,
          salts.flatMap((salt) => ids(blockTokens, salt)),
        ),
      );
      for (const chain of chains) {
        const known = chain.findIndex((name) => !cache.has(name));
        expect(use(cache, chain)).toBe(known < 0 ? chain.length : known);
        expect(cache.stats.bytes).toBeLessThanOrEqual(blocks * blockBytes);
        expect(cache.stats.bytes).toBe(cache.stats.blocks * blockBytes);
        for (const other of chains) {
          other.forEach((name, i) => {
            if (cache.has(name)) expect(other.slice(0, i).every((before) => cache.has(before))).toBe(true);
          });
        }
      }
    }),
    { seed, numRuns: 200 },
  );
});
