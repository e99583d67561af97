import fc from "fast-check";
import { expect, test } from "vitest";
import { bytesPerPosition, positionsFor } from "../../../../gpu-backend/kv/kv-budget.ts";
import { KvRows, type LengthClass } from "../../../../gpu-backend/kv/kv-rows.ts";

const seed = 1722;
const one = { heads: 1, width: 1 };
const shape = { arrays: [one, one], contextTokens: 256, maximumRows: 6 };
const maximumPositions = 2 * shape.contextTokens;
const maximumBytes = maximumPositions * bytesPerPosition(shape);

/** What a sequence must find. */
interface Model {
  contents: number[];
  wanted: number;
  isDecoding: boolean;
  /** null while it is parked. */
  lengthClass: LengthClass | null;
}

/** Positions that these take, in classes as they are, and parked. */
function positionsOf(models: Iterable<Model>): number {
  const byClass = Map.groupBy(models, ({ lengthClass }) => lengthClass);
  return [...byClass].reduce((sum, [lengthClass, own]) => {
    const lengths = own.map(({ contents, wanted }) => Math.max(contents.length, lengthClass ? wanted : 0));
    if (lengthClass === null) return sum + lengths.reduce((all, length) => all + length, 0);
    return sum + own.length * positionsFor(Math.max(...lengths), shape);
  }, 0);
}

test("whatever opens, decodes, is parked, resumes, moves to the other class and ends: each sequence finds what was appended to it, in memory that is bounded, and all is given back", () => {
  const kinds = ["open", "append", "append", "append", "promote", "park", "resume", "move", "drop", "trim"] as const;
  const operation = fc.record({
    kind: fc.constantFrom(...kinds),
    pick: fc.nat(),
    count: fc.integer({ min: 1, max: 90 }),
  });
  let tight = 0;
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80, size: "max" }), (operations) => {
      const rows = new KvRows<number>({ ...shape, maximumBytes });
      const models = new Map<number, Model>();
      let next = 0;
      for (const { kind, pick, count } of operations) {
        const lengthClass: LengthClass = pick % 2 ? "long" : "short";
        const change = (key: number, changed: Partial<Model>): Model => ({ ...models.get(key)!, ...changed });
        /** Whether memory and rows hold all with this one changed. */
        const fits = (key: number, changed: Model) => {
          const all = [...new Map(models).set(key, changed).values()];
          return (
            positionsOf(all) <= maximumPositions && all.filter((one) => one.lengthClass).length <= shape.maximumRows
          );
        };
        const keysOf = (isSo: (model: Model) => boolean) => [...models.keys()].filter((key) => isSo(models.get(key)!));
        const running = keysOf((one) => one.lengthClass !== null);
        const candidates = {
          ...{ open: [next], append: running, park: running, move: running, trim: [-1], drop: [...models.keys()] },
          promote: keysOf((one) => one.lengthClass !== null && !one.isDecoding),
          resume: keysOf((one) => one.lengthClass === null),
        }[kind];
        if (candidates.length === 0) continue;
        const key = candidates[pick % candidates.length];
        if (kind === "open") {
          const opened = { contents: [], wanted: count, isDecoding: false, lengthClass };
          if (!fits(key, opened)) continue;
          rows.open(key, lengthClass, count);
          models.set(next++, opened);
        } else if (kind === "append") {
          const values = Array.from({ length: count }, (_, t) => (pick % 1000) + t);
          const grown = change(key, { contents: [...models.get(key)!.contents, ...values] });
          if (grown.contents.length > shape.contextTokens || !fits(key, grown)) continue;
          rows.append([key], [count], [Float32Array.from(values, () => key), Float32Array.from(values)], count);
          models.set(key, grown);
        } else if (kind === "promote") {
          // With all others, or with those alone that decode already: the rest sits out.
          const others = [...models].filter(([, { isDecoding, lengthClass }]) => isDecoding && lengthClass !== null);
          const kept = pick % 2 ? others.map(([other]) => other) : [];
          rows.decodeOnly([...kept, key]);
          for (const [other] of others) models.set(other, change(other, { isDecoding: kept.includes(other) }));
          models.set(key, change(key, { isDecoding: true }));
        } else if (kind === "park") {
          rows.park(key);
          models.set(key, change(key, { lengthClass: null, wanted: 0 }));
        } else if (kind === "resume" || kind === "move") {
          const resumed = change(key, { lengthClass, wanted: 0 });
          if (!fits(key, resumed)) continue;
          if (kind === "move") rows.park(key);
          rows.resume(key, lengthClass);
          models.set(key, resumed);
        } else if (kind === "drop") {
          rows.drop(key);
          models.delete(key);
        } else rows.trim();
        expect(rows.parked).toBe(keysOf((one) => one.lengthClass === null).length);
        // Between two steps.
        if (kind === "trim") expect(rows.bytes).toBeLessThanOrEqual(maximumBytes);
        if (positionsOf(models.values()) > 0.9 * maximumPositions) tight++;
        const now = keysOf((one) => one.lengthClass !== null);
        for (const one of now) {
          const { contents } = models.get(one)!;
          const { past, pastLengths } = rows.feed([one]);
          expect([...pastLengths]).toEqual([contents.length]);
          expect(past[0].subarray(0, contents.length).every((value) => value === one)).toBe(true);
          expect([...past[1].subarray(0, contents.length)]).toEqual(contents);
        }
        // Decoding sequences of a class are in rows that follow each other, from the first.
        const inOrder = rows.inOrder(now.filter((one) => models.get(one)!.isDecoding));
        const classes = Object.values(Object.groupBy(inOrder, (one) => models.get(one)!.lengthClass!));
        expect(classes.flat()).toEqual(inOrder);
        for (const decoding of classes) {
          const { lengthClass } = models.get(decoding[0])!;
          const first = lengthClass === "long" ? -decoding.length : 0;
          expect(decoding.map((one) => rows.rowOf(one))).toEqual(decoding.map((_, row) => first + row));
        }
      }
      for (const key of models.keys()) rows.drop(key);
      rows.trim();
      expect([rows.parked, rows.usedBytes]).toEqual([0, 0]);
      expect(rows.bytes).toBeLessThanOrEqual(shape.contextTokens * bytesPerPosition(shape));
    }),
    { seed, numRuns: 150 },
  );
  expect(tight).toBeGreaterThan(100);
});

test("parking copies nothing but the row, however far both ends of the arrays were written", () => {
  const rows = new KvRows<string>({ ...shape, maximumBytes });
  const fill = (key: string, lengthClass: LengthClass, value: number) => {
    rows.open(key, lengthClass, 250);
    const values = new Float32Array(250).fill(value);
    rows.append([key], [250], [values, values], 250);
  };
  const bufferOf = (key: string) => rows.feed([key]).past[0].buffer;
  fill("a", "long", 1);
  fill("b", "long", 2);
  const buffer = bufferOf("a");
  rows.drop("b");
  fill("c", "short", 3);
  rows.park("a");
  rows.trim();
  expect([bufferOf("c") === buffer, rows.bytes]).toEqual([true, maximumBytes]);
  // It has to move where others grow on either side.
  rows.drop("c");
  fill("d", "long", 4);
  rows.drop("d");
  fill("e", "short", 5);
  rows.drop("e");
  rows.resume("a", "short");
  rows.trim();
  expect(bufferOf("a")).toBe(buffer);
  expect(
    rows
      .feed(["a"])
      .past[1].subarray(0, 250)
      .every((value) => value === 1),
  ).toBe(true);
  expect(rows.bytes).toBeLessThanOrEqual(maximumBytes);
});

test("a pass over rows of a class that do not follow each other, and a sequence without a row, are errors", () => {
  const rows = new KvRows<string>(shape);
  for (const key of ["a", "b", "c"]) rows.open(key, "short", 1);
  rows.open("e", "long", 1);
  expect(() => rows.feed(["a", "c"])).toThrow(/row 2 .* not follow/);
  expect(() => rows.feed(["a", "e", "b"])).toThrow(/before and after/);
  expect(rows.feed(["a", "b", "e"])).toMatchObject({ pastTokens: 64, longPast: { sequences: 1, pastTokens: 64 } });
  expect(() => rows.rowOf("d")).toThrow(/no row/);
  rows.drop("d");
});
