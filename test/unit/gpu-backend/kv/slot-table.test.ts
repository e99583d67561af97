import fc from "fast-check";
import { expect, test } from "vitest";
import { type Move, SlotTable } from "../../../../gpu-backend/kv/slot-table.ts";

const seed = 1711;
const capacity = 8;

test("whatever opens, starts decoding and ends: rows stay dense, decoding first, none shared, and contents follow the moves", () => {
  const operation = fc.record({ kind: fc.constantFrom("open", "promote", "demote", "release"), pick: fc.nat() });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
      const table = new SlotTable<number>(capacity);
      /** What an arena would hold: the owner of each row. */
      const contents: number[] = [];
      const phases = new Map<number, "prefilling" | "decoding">();
      const follow = (moves: Move[]) => {
        for (const { from, to, swap } of moves) {
          const replaced = contents[to];
          contents[to] = contents[from];
          if (swap) contents[from] = replaced;
        }
      };
      let next = 0;
      for (const { kind, pick } of operations) {
        const before = { promote: "prefilling", demote: "decoding" }[kind as string];
        const candidates = [...phases.keys()].filter((key) => kind === "release" || phases.get(key) === before);
        if (kind === "open") {
          if (table.size === capacity) continue;
          contents[table.open(next)] = next;
          phases.set(next++, "prefilling");
        } else if (candidates.length > 0) {
          const key = candidates[pick % candidates.length];
          follow(table[kind](key));
          if (kind === "promote") phases.set(key, "decoding");
          else if (kind === "demote") phases.set(key, "prefilling");
          else phases.delete(key);
        }
        const owners = contents.slice(0, table.size);
        expect(table.size).toBe(phases.size);
        expect(owners.slice(0, table.decoding.length)).toEqual(table.decoding);
        expect(new Set(owners).size).toBe(owners.length);
        for (const [row, owner] of owners.entries()) expect(table.rowOf(owner)).toBe(row);
        const isDecoding = (owner: number) => phases.get(owner) === "decoding";
        expect(table.decoding).toEqual(owners.filter(isDecoding));
      }
    }),
    { seed, numRuns: 500 },
  );
});

test("a full table, a second slot for one sequence, and a sequence without a slot are errors", () => {
  const table = new SlotTable<string>(1);
  expect(() => table.release("a")).toThrow(/no slot/);
  table.open("a");
  expect(() => table.open("b")).toThrow(/all 1 slots/);
  table.promote("a");
  expect(() => table.promote("a")).toThrow(/decoding already/);
  table.demote("a");
  expect(() => table.demote("a")).toThrow(/not decoding/);
  table.release("a");
  table.open("a");
  expect(table.rowOf("a")).toBe(0);
});
