import fc from "fast-check";
import { expect, test } from "vitest";
import { LruCache } from "../../../gpu-backend/lru.ts";

const seed = 1716;

test("any use keeps the bound, and drops the longest unused", () => {
  const [kind, key] = [fc.constantFrom("set", "get", "delete"), fc.constantFrom("a", "b", "c", "d", "e")];
  const operation = fc.record({ kind, key, bytes: fc.integer({ min: 1, max: 50 }) });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), fc.integer({ min: 0, max: 100 }), (operations, bound) => {
      const cache = new LruCache<number>(bound);
      /** What the cache must hold, the least recently used entry first. */
      let entries: { key: string; bytes: number; value: number }[] = [];
      for (const [value, { kind, key, bytes }] of operations.entries()) {
        const present = entries.find((one) => one.key === key);
        if (kind === "delete" || kind === "set" || present) entries = entries.filter((one) => one !== present);
        if (kind === "set") {
          entries.push({ key, bytes, value });
          const dropped = cache.set(key, value, bytes);
          expect(dropped === 0 || sum(entries.slice(dropped - 1)) > bound).toBe(true);
          entries.splice(0, dropped);
        } else if (kind === "get") {
          expect(cache.get(key)).toBe(present?.value);
          if (present) entries.push(present);
        } else cache.delete(key);
        expect(cache.keys).toEqual(entries.map((one) => one.key));
        expect(cache.bytes).toBe(sum(entries));
        expect(cache.bytes).toBeLessThanOrEqual(bound);
      }
    }),
    { seed, numRuns: 300 },
  );
});

function sum(entries: readonly { bytes: number }[]): number {
  return entries.reduce((total, { bytes }) => total + bytes, 0);
}
