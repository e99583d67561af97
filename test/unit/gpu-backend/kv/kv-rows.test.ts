import fc from "fast-check";
import { expect, test } from "vitest";
import { bytesPerPosition } from "../../../../gpu-backend/kv/kv-budget.ts";
import { KvRows } from "../../../../gpu-backend/kv/kv-rows.ts";

const seed = 1722;
const shape = { layers: 1, heads: 1, headWidth: 1, contextTokens: 256, maximumRows: 6 };
const classOf = (pick: number) => (pick % 2 ? "long" : "short");

test("whatever opens, decodes, is parked, resumes, moves to the other class and ends: each sequence finds what was appended to it, and all is given back", () => {
  console.log(`seed ${seed}`);
  const kinds = ["open", "append", "append", "promote", "park", "resume", "move", "drop"] as const;
  const operation = fc.record({ kind: fc.constantFrom(...kinds), pick: fc.nat() });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
      const rows = new KvRows<number>(shape);
      const contents = new Map<number, number[]>();
      const phases = new Map<number, "prefilling" | "decoding">();
      const parked = new Set<number>();
      let next = 0;
      for (const { kind, pick } of operations) {
        const running = [...phases.keys()].filter((key) => !parked.has(key));
        const candidates = kind === "resume" ? [...parked] : kind === "drop" ? [...phases.keys()] : running;
        const some = kind === "promote" ? candidates.filter((key) => phases.get(key) === "prefilling") : candidates;
        const isFull = running.length === shape.maximumRows;
        if (kind === "open" && !isFull) {
          rows.open(next, classOf(pick), 1);
          phases.set(next, "prefilling");
          contents.set(next++, []);
        }
        if (kind === "open" || some.length === 0 || (kind === "resume" && isFull)) continue;
        const key = some[pick % some.length];
        if (kind === "append") {
          rows.append([key], [1], Float32Array.of(key, pick % 1000, 0, 0), 1);
          contents.get(key)!.push(pick % 1000);
        } else if (kind === "promote") {
          rows.promote(key);
          phases.set(key, "decoding");
        } else if (kind === "park") {
          rows.park(key);
          parked.add(key);
        } else if (kind === "resume") {
          rows.resume(key, classOf(pick));
          parked.delete(key);
        } else if (kind === "move") {
          rows.park(key);
          rows.resume(key, classOf(pick));
        } else {
          rows.drop(key);
          phases.delete(key);
          parked.delete(key);
        }
        expect(rows.parked).toBe(parked.size);
        const now = [...phases.keys()].filter((one) => !parked.has(one));
        for (const one of now) {
          const { past, pastLengths } = rows.feed([one], 1);
          const length = contents.get(one)!.length;
          expect([...pastLengths]).toEqual([length]);
          expect([...past[0].subarray(0, length)]).toEqual(contents.get(one)!.map(() => one));
          expect([...past[1].subarray(0, length)]).toEqual(contents.get(one));
        }
        // Decoding sequences are in rows that follow each other, from the first.
        for (const decoding of rows.inOrder(now.filter((one) => phases.get(one) === "decoding"))) {
          expect(decoding.map((one) => rows.rowOf(one))).toEqual(decoding.map((_, row) => row));
          expect(new Set(decoding.map((one) => rows.arenaOf(one))).size).toBe(1);
        }
      }
      for (const key of phases.keys()) rows.drop(key);
      rows.trim();
      expect([rows.parked, rows.usedBytes]).toEqual([0, 0]);
      // Of one row of the shortest size.
      expect(rows.bytes).toBeLessThanOrEqual(64 * bytesPerPosition(shape));
    }),
    { seed, numRuns: 200 },
  );
});

test("a pass over rows that do not follow each other, and a sequence without a row, are errors", () => {
  const rows = new KvRows<string>(shape);
  for (const key of ["a", "b", "c"]) rows.open(key, "short", 1);
  rows.open("e", "long", 1);
  expect(() => rows.feed(["a", "c"], 1)).toThrow(/sequence 1 of a pass is in row 2, not in 1/);
  expect(() => rows.feed(["a", "e"], 1)).toThrow(/sequence 1 of a pass is in row null/);
  expect(() => rows.rowOf("d")).toThrow(/no row/);
  rows.drop("d");
});
