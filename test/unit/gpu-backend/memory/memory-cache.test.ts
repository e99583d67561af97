import { expect, test } from "vitest";
import { packMemoryHead } from "../../../../gpu-backend/memory/memory.ts";
import { MemoryCache } from "../../../../gpu-backend/memory/memory-cache.ts";
import type { ServiceError } from "../../../../shared/errors.ts";

const manifestHash = "ab".repeat(32);
const D = 4;
const shape = { manifestHash, hiddenSize: D, vocabularySize: 100 };
const ids = Int32Array.of(1, 7);
const head = packMemoryHead([{ name: "a", ids, ends: ids }], D, manifestHash);
const file = Buffer.concat([head, Buffer.alloc(D, 60)]);
const bytes = 2 * file.length;

/** A cache with room for `memories` memories. Each tenant has a memory for every hash of one letter, and no other memory. */
function cacheOf(memories: number, before: () => Promise<void> = async () => {}) {
  const reads: string[] = [];
  const cache = new MemoryCache({
    source: {
      async read(tenant, hash) {
        reads.push(`${tenant}/${hash}`);
        await before();
        return /^[a-z]$/.test(hash) ? file : null;
      },
    },
    ...{ shape, neighbours: 32, threads: 1, maximumBytes: memories * bytes },
  });
  return { cache, reads };
}
const kindOf = (promise: Promise<unknown>) => promise.catch((error: ServiceError) => error.kind);

test("a memory is opened once, and stays until others need its room, the least recently used first", async () => {
  const { cache, reads } = cacheOf(2);
  for (const hash of ["a", "b", "a", "c", "a", "b"]) cache.release(await cache.acquire("t", hash));
  expect(reads).toEqual(["t/a", "t/b", "t/c", "t/b"]);
  expect(cache.stats).toEqual({ entries: 2, bytes: 2 * bytes, pinnedBytes: 0, opened: 4, evictions: 2 });
});

test("a memory is opened once for all who ask at the same time, and is held for each of them", async () => {
  const { cache, reads } = cacheOf(1);
  const [one, other] = await Promise.all([cache.acquire("t", "a"), cache.acquire("t", "a")]);
  expect(reads).toEqual(["t/a"]);
  cache.release(one);
  expect(await kindOf(cache.acquire("t", "b"))).toBe("overloaded");
  cache.release(other);
  cache.release(await cache.acquire("t", "b"));
  expect(cache.stats).toMatchObject({ entries: 1, evictions: 1 });
});

test("a memory in use is not closed, and can still be searched after it was deleted", async () => {
  const { cache } = cacheOf(2);
  const held = await cache.acquire("t", "a");
  for (const hash of ["b", "c", "d"]) cache.release(await cache.acquire("t", hash));
  expect(cache.stats).toMatchObject({ entries: 2, pinnedBytes: bytes, evictions: 2 });
  cache.delete("t", "a");
  expect(cache.stats).toMatchObject({ entries: 1, pinnedBytes: 0 });
  const [found] = await held.search.nearest([Float32Array.of(1, 1, 1, 1)]);
  expect([...found.nextIds]).toEqual([7]);
  cache.release(held);
  await expect(held.search.nearest([Float32Array.of(1, 1, 1, 1)])).rejects.toThrow();
});

test("a single memory may be larger than the bound", async () => {
  const { cache } = cacheOf(0);
  cache.release(await cache.acquire("t", "a"));
  expect(cache.stats).toMatchObject({ opened: 1, entries: 0 });
});

test("another tenant's memory is not found, and stays when this tenant's are deleted", async () => {
  const { cache, reads } = cacheOf(4);
  for (const tenant of ["t", "u"]) cache.release(await cache.acquire(tenant, "a"));
  expect(reads).toEqual(["t/a", "u/a"]);
  expect(await kindOf(cache.acquire("u", "none"))).toBe("memory_not_found");
  cache.delete("t", null);
  expect(cache.stats).toMatchObject({ entries: 1 });
  cache.release(await cache.acquire("u", "a"));
  expect(cache.stats).toMatchObject({ opened: 2 });
});

test("a memory that is deleted while it is read from disk is not served", async () => {
  const [started, read] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const { cache } = cacheOf(2, async () => {
    started.resolve();
    await read.promise;
  });
  const kind = kindOf(cache.acquire("t", "a"));
  await started.promise;
  cache.delete("t", "a");
  read.resolve();
  expect(await kind).toBe("memory_deleted");
  cache.release(await cache.acquire("t", "a"));
  expect(cache.stats).toMatchObject({ entries: 1, opened: 1 });
});
