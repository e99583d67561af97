import fc from "fast-check";
import { expect, test } from "vitest";
import { LruPolicy } from "../../../../gpu-backend/adapters/lru.ts";

const seed = 1716;

test("drops the least recently used first, and no more than it must", () => {
  const policy = new LruPolicy(30);
  for (const key of ["a", "b", "c"]) policy.add(key, 10);
  policy.pin("a");
  policy.unpin("a");
  policy.add("d", 10);
  expect(policy.evict()).toEqual(["b"]);
  expect(policy.bytes).toBe(30);
});

test("any use keeps the bound, but for what is pinned, and never drops a pinned entry", () => {
  const operation = fc.record({
    kind: fc.constantFrom("add", "pin", "unpin", "touch"),
    pick: fc.nat(),
    bytes: fc.integer({ min: 1, max: 50 }),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), fc.integer({ min: 0, max: 100 }), (operations, bound) => {
      const policy = new LruPolicy(bound);
      const entries = new Map<string, { bytes: number; pins: number }>();
      let next = 0;
      for (const { kind, pick, bytes } of operations) {
        const keys = [...entries.keys()].filter((key) => kind !== "unpin" || entries.get(key)!.pins > 0);
        const key = keys[pick % keys.length];
        if (kind === "add") {
          entries.set(`k${next}`, { bytes, pins: 0 });
          policy.add(`k${next++}`, bytes);
        } else if (key !== undefined && kind === "touch") policy.touch(key);
        else if (key !== undefined && kind === "pin") {
          policy.pin(key);
          entries.get(key)!.pins++;
        } else if (key !== undefined) {
          policy.unpin(key);
          entries.get(key)!.pins--;
        }
        for (const dropped of policy.evict()) {
          expect(entries.get(dropped)!.pins).toBe(0);
          entries.delete(dropped);
        }
        const kept = [...entries.values()];
        expect(policy.bytes).toBe(kept.reduce((sum, entry) => sum + entry.bytes, 0));
        expect(policy.bytes <= bound || kept.every(({ pins }) => pins > 0)).toBe(true);
        for (const present of entries.keys()) expect(policy.has(present)).toBe(true);
      }
    }),
    { seed, numRuns: 300 },
  );
});
