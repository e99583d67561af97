import fc from "fast-check";
import { expect, test } from "vitest";
import { LruPolicy } from "../../../../gpu-backend/adapters/lru.ts";

const seed = 1716;

test("drops the least recently used first, and no more than it must", () => {
  const policy = new LruPolicy(30);
  for (const key of ["a", "b", "c"]) policy.add(key, 10);
  policy.touch("a");
  policy.add("d", 10);
  expect(policy.evict()).toEqual(["b"]);
  expect(policy.bytes).toBe(30);
});

test("any use keeps the bound, and drops the longest unused", () => {
  const operation = fc.record({
    kind: fc.constantFrom("add", "touch", "remove"),
    pick: fc.nat(),
    bytes: fc.integer({ min: 1, max: 50 }),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), fc.integer({ min: 0, max: 100 }), (operations, bound) => {
      const policy = new LruPolicy(bound);
      /** The longest unused first. */
      let entries: { key: string; bytes: number }[] = [];
      for (const [i, { kind, pick, bytes }] of operations.entries()) {
        const picked = entries[pick % entries.length];
        if (kind === "add") {
          entries.push({ key: `k${i}`, bytes });
          policy.add(`k${i}`, bytes);
        } else if (picked) {
          policy[kind](picked.key);
          entries = entries.filter((one) => one !== picked);
          if (kind === "touch") entries.push(picked);
        }
        const dropped = policy.evict();
        expect(entries.splice(0, dropped.length).map(({ key }) => key)).toEqual(dropped);
        expect(policy.bytes).toBe(entries.reduce((sum, one) => sum + one.bytes, 0));
        expect(policy.bytes).toBeLessThanOrEqual(bound);
        for (const { key } of entries) expect(policy.has(key)).toBe(true);
      }
    }),
    { seed, numRuns: 300 },
  );
});
