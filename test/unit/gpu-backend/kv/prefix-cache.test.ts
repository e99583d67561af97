import fc from "fast-check";
import { beforeEach, expect, test } from "vitest";
import { blockNames, PrefixCache } from "../../../../gpu-backend/kv/prefix-cache.ts";
import type { KvBlock } from "../../../../gpu-backend/kv/runner.ts";

const seed = 1720;
const blockTokens = 16;
const tokenBytes = 4;
const blockBytes = blockTokens * tokenBytes;
const ids = (length: number, salt = 0) => Array.from({ length }, (_, i) => i * 3 + salt);
const namesOf = (tenant: string, tokenIds: number[]) => blockNames(tenant, tokenIds, blockTokens);
const cacheOf = (blocks: number) => new PrefixCache(blocks * blockBytes);

interface MarkedBlock extends KvBlock {
  marks: number[];
}

/** Blocks that were copied and not freed yet. */
const live = new Set<MarkedBlock>();
beforeEach(() => live.clear());

function blockOf(marks: number[]): MarkedBlock {
  const block = {
    ...{ marks, positions: marks.length, bytes: marks.length * tokenBytes },
    free: () => expect(live.delete(block)).toBe(true),
  };
  live.add(block);
  return block;
}

/** Computes the tokens of a prompt that the cache lacks. Returns how many tokens the cache had. */
function use(cache: PrefixCache, tenant: string, prompt: number[]): number {
  const names = namesOf(tenant, prompt);
  const found = cache.take(tenant, names, prompt, true);
  let at = 0;
  for (const { block, tokens } of found) {
    // Each token has a mark that depends on it and on all tokens before it.
    const { marks } = block.kv as MarkedBlock;
    for (let t = 0; t < tokens; t++) expect(marks[t]).toBe(markOf(tenant, prompt, at + t));
    at += tokens;
  }
  for (let start = at - (at % blockTokens); start < prompt.length; start += blockTokens) {
    const end = Math.min(start + blockTokens, prompt.length);
    const own = Int32Array.from(prompt.slice(start, end));
    const marks = Array.from({ length: end - start }, (_, t) => markOf(tenant, prompt, start + t));
    cache.keep(tenant, names.slice(0, start / blockTokens), own, () => blockOf(marks));
  }
  return at;
}
const markOf = (tenant: string, prompt: number[], at: number) =>
  prompt.slice(0, at + 1).reduce((mark, id) => (mark * 31 + id + 1) % 65_521, tenant.charCodeAt(0));

test("names of a tenant that is named as another's block find nothing of that block", () => {
  const cache = cacheOf(8);
  const prompt = ids(40);
  use(cache, "victim", prompt);
  for (const [i, block] of namesOf("victim", prompt).entries()) {
    const rest = prompt.slice((i + 1) * blockTokens);
    expect(cache.take(block, namesOf(block, rest), rest, true)).toEqual([]);
  }
  const [first, second] = namesOf("victim", prompt);
  expect(namesOf(first, prompt.slice(blockTokens))[0]).not.toBe(second);
});

test("names tell tenants apart, and every token before, in its place", () => {
  const [, name] = namesOf("t", ids(32));
  const others = [
    namesOf("u", ids(32))[1],
    namesOf("t", ids(16))[0],
    ...Array.from({ length: 32 }, (_, i) => namesOf("t", ids(32).with(i, 999))[1]),
    namesOf("t", [...ids(32).slice(16), ...ids(16)])[1],
  ];
  expect(new Set([name, ...others]).size).toBe(others.length + 1);
});

test("a tenant that floods the cache takes nothing from one within its share", () => {
  const cache = cacheOf(8);
  use(cache, "t", ids(64));
  for (let salt = 1; salt < 20; salt++) use(cache, "u", ids(64, 100 * salt));
  expect(use(cache, "t", ids(64))).toBe(64);
  expect(cache.stats).toMatchObject({ tenants: 2, blocks: 8, evictions: 18 * 4 });
});

test("one tenant may hold everything, and gives up its oldest blocks to another until both have their share", () => {
  const cache = cacheOf(4);
  const prompts = [1, 2, 3, 4, 5, 6, 7].map((salt) => ids(blockTokens, 100 * salt));
  const [a, b, c, d, e, f, g] = prompts;
  for (const prompt of [a, b, c, d, a]) use(cache, "loud", prompt);
  const kept = () => prompts.map((prompt) => ["loud", "quiet"].some((one) => cache.has(namesOf(one, prompt)[0])));
  use(cache, "quiet", e);
  expect(kept()).toEqual([true, false, true, true, true, false, false]);
  use(cache, "quiet", f);
  expect(kept()).toEqual([true, false, false, true, true, true, false]);
  use(cache, "loud", g);
  expect(kept()).toEqual([true, false, false, false, true, true, true]);
});

test("any use keeps the bound, never keeps what cannot be found, and gives each token its own content", () => {
  const salts = fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 5 });
  const prompt = fc.record({ tenant: fc.constantFrom("t", "u"), salts, cut: fc.integer({ min: 0, max: 7 }) });
  let parts = 0;
  fc.assert(
    fc.property(fc.array(prompt, { maxLength: 30 }), fc.integer({ min: 0, max: 8 }), (prompts, blocks) => {
      const cache = cacheOf(blocks);
      live.clear();
      const used = prompts.map(({ tenant, salts, cut }) => {
        const whole = salts.flatMap((salt) => ids(blockTokens, salt));
        return { tenant, ids: whole.slice(0, Math.max(0, whole.length - cut)) };
      });
      const chains = used.map((one) => namesOf(one.tenant, one.ids));
      for (const [i, one] of used.entries()) {
        const missing = chains[i].findIndex((name) => !cache.has(name));
        const whole = blockTokens * (missing < 0 ? chains[i].length : missing);
        const found = use(cache, one.tenant, one.ids);
        expect(found).toBeGreaterThanOrEqual(whole);
        expect(live.size).toBe(cache.stats.blocks);
        expect(found).toBeLessThan(Math.min(whole + blockTokens, one.ids.length + 1));
        if (found > whole) parts++;
        expect(cache.stats.bytes).toBeLessThanOrEqual(blocks * blockBytes);
        for (const other of chains) {
          other.forEach((name, i) => {
            if (cache.has(name)) expect(other.slice(0, i).every((before) => cache.has(before))).toBe(true);
          });
        }
      }
    }),
    { seed, numRuns: 500 },
  );
  expect(parts).toBeGreaterThan(100);
});
