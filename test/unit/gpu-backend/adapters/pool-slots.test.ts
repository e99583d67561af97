import fc from "fast-check";
import { expect, test } from "vitest";
import type { Adapter } from "../../../../gpu-backend/adapters/adapter.ts";
import { PoolSlots } from "../../../../gpu-backend/adapters/pool-slots.ts";

const seed = 1719;

/** A pool of D = 1 and V = 2 that remembers what lies in each slot. */
function fakePool(slots: number, rank = 1) {
  const contents: { a: number[]; b: number[] }[] = [];
  const write = (slot: number, a: Float32Array, b: Float32Array) => {
    contents[slot] = { a: [...a], b: [...b] };
  };
  return { contents, slots: new PoolSlots({ slots, rank, write }) };
}
const adapter = (n: number, rank = 1): Adapter => ({
  hash: `hash${n}`,
  bias: null,
  gates: null,
  directions: { rank, a: new Float32Array(rank).fill(n), b: new Float32Array(2 * rank).fill(-n) },
  scale: 1,
  bytes: 100,
});

test("an adapter keeps its slot while it is worn, and after that until another needs it, the longest unused first", () => {
  const { slots, contents } = fakePool(2);
  const [one, two, three] = [adapter(1), adapter(2), adapter(3)];
  expect([slots.take(one), slots.take(two), slots.take(one)]).toEqual([0, 1, 0]);
  expect(slots.take(three)).toBe(null);
  slots.release(one);
  expect(slots.take(three)).toBe(null);
  slots.release(two);
  slots.release(one);
  expect(slots.stats).toEqual({ slots: 2, resident: 2, pinned: 0, evictions: 0 });
  expect(slots.take(two)).toBe(1);
  expect(slots.take(three)).toBe(0);
  expect(contents).toEqual([
    { a: [3], b: [-3, -3] },
    { a: [2], b: [-2, -2] },
  ]);
  expect(slots.stats).toEqual({ slots: 2, resident: 2, pinned: 2, evictions: 1 });
});

test("a lower rank is padded with zeros; a higher one, and an adapter without directions, are refused", () => {
  const { slots, contents } = fakePool(3, 4);
  slots.take(adapter(5, 3));
  expect(contents[0]).toEqual({ a: [5, 5, 5, 0], b: [-5, -5, -5, -5, -5, -5, 0, 0] });
  expect(() => slots.take(adapter(6, 5))).toThrow(/rank 5.*4/);
  expect(() => slots.take({ ...adapter(7), directions: null })).toThrow(/hash7/);
  expect(slots.stats.resident).toBe(1);
});

test("whatever is taken and released: what is worn lies where it was promised, and a slot is refused only where all are worn", () => {
  console.log(`seed ${seed}`);
  const operation = fc.record({ take: fc.boolean(), n: fc.nat({ max: 7 }) });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 100 }), fc.integer({ min: 1, max: 4 }), (operations, count) => {
      const { slots, contents } = fakePool(count);
      /** Slot of each adapter that was taken more often than released, and how often. */
      const worn = new Map<number, { slot: number; times: number }>();
      for (const { take, n } of operations) {
        const held = worn.get(n);
        if (take) {
          const slot = slots.take(adapter(n));
          if (slot === null) expect([held, worn.size]).toEqual([undefined, count]);
          else worn.set(n, { slot, times: (held?.times ?? 0) + 1 });
        } else if (held) {
          slots.release(adapter(n));
          if (--held.times === 0) worn.delete(n);
        }
        expect(new Set([...worn.values()].map(({ slot }) => slot)).size).toBe(worn.size);
        for (const [key, { slot }] of worn) expect(contents[slot].a).toEqual([key]);
        expect(slots.stats).toMatchObject({ pinned: worn.size });
      }
    }),
    { seed, numRuns: 300 },
  );
});
