import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KvArena } from "../../../../gpu-backend/kv/arena.ts";
import { bytesPerPosition, KvBudget } from "../../../../gpu-backend/kv/kv-budget.ts";
import { KvMemory, type ParkedKv } from "../../../../gpu-backend/kv/kv-memory.ts";
import { SlotTable } from "../../../../gpu-backend/kv/slot-table.ts";

const seed = 1712;
/** Two pairs of keys and values, and states. */
const pair = { heads: 2, width: 3 };
const shape = { arrays: [pair, pair, pair, pair, { heads: 1, width: 5 }], contextTokens: 300, maximumRows: 9 };

/** The value that array i holds for head element e of a token. */
const elementOf = (token: number, i: number, e: number) => token + i / 8 + e / 64;

/** New keys and values of `counts` tokens for each row, padded with NaN. */
function freshOf(tokens: number[][], T: number): Float32Array<ArrayBuffer>[] {
  return shape.arrays.map(({ heads: H, width: d }, i) => {
    const fresh = new Float32Array(tokens.length * H * T * d).fill(Number.NaN);
    tokens.forEach((row, s) => {
      for (let h = 0; h < H; h++) {
        row.forEach((token, t) => {
          for (let e = 0; e < d; e++) fresh[((s * H + h) * T + t) * d + e] = elementOf(token, i, h * d + e);
        });
      }
    });
    return fresh;
  });
}

/** The tokens that a row holds, read back from every array and head as a step is fed them. */
function tokensIn(arena: KvArena, row: number): number[] {
  const { past, pastLengths, pastTokens: P } = arena.feed(row, 1);
  return Array.from({ length: pastLengths[0] }, (_, t) => {
    const token = Math.floor(past[0][t * shape.arrays[0].width]);
    shape.arrays.forEach(({ heads: H, width: d }, i) => {
      for (let e = 0; e < H * d; e++) {
        const at = (Math.floor(e / d) * P + t) * d + (e % d);
        // `expect` takes longer than all the rest.
        if (past[i][at] !== Math.fround(elementOf(token, i, e)))
          expect.unreachable(`token ${t} of row ${row} is another`);
      }
      if (past[i].length !== H * P * d) expect.unreachable(`array ${i} has ${past[i].length} elements`);
    });
    return token;
  });
}

/** A sequence that has a row. */
interface Held {
  tokens: number[];
  wanted: number;
}

test.each(["start", "end"] as const)(
  "each sequence finds what it appended, through any moves, parking, growth and trimming, in memory that is bounded, from the %s",
  (side) => {
    const operation = fc.record({
      kind: fc.constantFrom("open", "promote", "release", "append", "append", "trim", "park", "resume"),
      pick: fc.nat(),
      count: fc.integer({ min: 1, max: 64 }),
    });
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 60, size: "max" }),
        fc.integer({ min: 1, max: 9 }),
        (operations, contexts) => {
          const maximumBytes = contexts * shape.contextTokens * bytesPerPosition(shape);
          const budget = new KvBudget(shape, maximumBytes, { classBytes: Number.POSITIVE_INFINITY });
          const memory = new KvMemory({ ...shape, maximumBytes });
          const arena = new KvArena(shape, memory, side);
          const parked: { aside: ParkedKv; tokens: number[] }[] = [];
          /** Whether memory holds what there is, with `rows` more and none longer than `length`. */
          const isRoom = (rows: number, length: number) => {
            const running = inRows();
            const longest = running.reduce((most, { tokens, wanted }) => Math.max(most, tokens.length, wanted), length);
            const aside = parked.reduce((sum, { tokens }) => sum + tokens.length, 0);
            return budget.holds(Array<number>(running.length + rows).fill(longest), aside);
          };
          const table = new SlotTable<Held>(shape.maximumRows);
          const held = new Set<Held>();
          /** The sequences in the order of their rows. */
          const inRows = () => [...held].sort((a, b) => table.rowOf(a)! - table.rowOf(b)!);
          const open = (sequence: Held) => {
            table.open(sequence);
            held.add(sequence);
          };
          const release = (sequence: Held) => {
            held.delete(sequence);
            return table.release(sequence);
          };
          let token = 1;
          for (const { kind, pick, count } of operations) {
            const { decoding } = table;
            const all = inRows();
            const prefilling = all.slice(decoding.length);
            if (kind === "park" && all.length > 0) {
              const victim = all[pick % all.length];
              const row = table.rowOf(victim)!;
              const { tokens } = victim;
              const copy = arena.read(arena.rowAt(row), 0, tokens.length);
              parked.push({ aside: memory.store(copy, tokens.length), tokens });
              // Its row makes room for it.
              arena.close(release(victim));
              memory.trim();
            } else if (kind === "resume" && parked.length > 0 && table.size < shape.maximumRows) {
              const { aside, tokens } = parked.splice(pick % parked.length, 1)[0];
              const copy = memory.restore(aside);
              if (isRoom(1, tokens.length)) {
                open({ tokens, wanted: 0 });
                arena.open(tokens.length);
                arena.append(arena.rowAt(arena.rows - 1), [tokens.length], copy, tokens.length);
              }
            } else if (kind === "open" && table.size < shape.maximumRows) {
              const wanted = pick % 2 ? 4 * count : 0;
              if (!isRoom(1, wanted)) continue;
              open({ tokens: [], wanted });
              arena.open(wanted);
            } else if (kind === "promote" && prefilling.length > 0) {
              arena.follow(table.promote(prefilling[pick % prefilling.length]));
            } else if (kind === "release" && all.length > 0) {
              arena.close(release(all[pick % all.length]));
            } else if (kind === "append") {
              const isPrefill = prefilling.length > 0 && pick % 2 === 0;
              const rows = isPrefill ? prefilling : decoding;
              const grown =
                rows.reduce((most, { tokens }) => Math.max(most, tokens.length), 0) + (isPrefill ? count : 1);
              if (rows.length === 0 || !isRoom(0, grown)) continue;
              const T = isPrefill ? count : 1;
              const added = rows.map(({ tokens }, s) => {
                const room = Math.min(isPrefill ? Math.max(1, count - s) : 1, shape.contextTokens - tokens.length);
                return Array.from({ length: room }, () => token++);
              });
              // A pass takes rows in the order of their memory.
              const inMemory = side === "end" ? added.toReversed() : added;
              const places = rows.map((row) => arena.rowAt(table.rowOf(row)!));
              arena.append(
                Math.min(...places),
                inMemory.map((ids) => ids.length),
                freshOf(inMemory, T),
                T,
              );
              rows.forEach((row, s) => {
                row.tokens.push(...added[s]);
              });
            } else arena.trim();
            expect(arena.rows).toBe(table.size);
            expect(memory.bytes).toBeLessThanOrEqual(maximumBytes);
            for (const [row, { tokens }] of inRows().entries()) {
              expect(tokensIn(arena, arena.rowAt(row))).toEqual(tokens);
            }
          }
        },
      ),
      { seed, numRuns: 60 },
    );
  },
);

test("a copy of some positions of a row is what appending them gave", () => {
  const arena = new KvArena(shape);
  arena.open();
  arena.open();
  const tokens = Array.from({ length: 10 }, (_, t) => t + 1);
  arena.append(1, [10], freshOf([tokens], 12), 12);
  expect(arena.read(1, 3, 8)).toEqual(freshOf([tokens.slice(3, 8)], 5));
  expect([...arena.state(1, 7)]).toEqual(Array.from({ length: 5 }, (_, e) => Math.fround(elementOf(8, 4, e))));
});

describe("memory", () => {
  const fill = (arena: KvArena, row: number, count: number) => {
    const tokens = Array.from({ length: count }, (_, t) => t + 1);
    arena.append(row, [count], freshOf([tokens], count), count);
  };

  test("what is fed is a view of all positions of the rows, however few they hold", () => {
    const arena = new KvArena(shape);
    arena.open();
    arena.open(200);
    expect(arena.positions).toBe(256);
    fill(arena, 0, 64);
    fill(arena, 1, 65);
    const [both, second] = [arena.feed(0, 2), arena.feed(1, 1)];
    expect([both.pastTokens, second.pastTokens]).toEqual([256, 256]);
    expect([...both.pastLengths]).toEqual([64, 65]);
    both.past.forEach((array, i) => {
      expect(array.length).toBe(2 * second.past[i].length);
      expect(array.buffer).toBe(second.past[i].buffer);
      expect(array.byteOffset + second.past[i].byteLength).toBe(second.past[i].byteOffset);
    });
  });

  test("what a row wants stays reserved until it is closed, wherever it moves", () => {
    const arena = new KvArena(shape);
    arena.open();
    arena.open(200);
    arena.follow([{ from: 1, to: 0, swap: true }]);
    arena.trim();
    expect(arena.positions).toBe(256);
    arena.close([]);
    arena.trim();
    expect(arena.positions).toBe(256);
    arena.open();
    arena.close([{ from: 1, to: 0, swap: false }]);
    arena.trim();
    expect(arena.positions).toBe(64);
  });

  test("positions grow by half, or a third, up to the context, and come back with room to spare", () => {
    const arena = new KvArena(shape);
    arena.open();
    fill(arena, 0, 64);
    expect(arena.positions).toBe(64);
    fill(arena, 0, 1);
    expect(arena.positions).toBe(128);
    fill(arena, 0, 235);
    expect(arena.positions).toBe(300);
    expect(() => fill(arena, 0, 1)).toThrow(/301 positions.*300/);
    arena.open();
    fill(arena, 1, 60);
    arena.close([{ from: 1, to: 0, swap: false }]);
    arena.trim();
    // 60 of 64 would grow again soon.
    expect(arena.positions).toBe(128);
    expect(tokensIn(arena, 0)).toHaveLength(60);
    arena.close([]);
    arena.open(10);
    expect(arena.positions).toBe(64);
  });

  test("memory that rows have written stays for others until it is far too much; where nothing runs, all but one row's goes", () => {
    const memory = new KvMemory(shape);
    const arena = new KvArena(shape, memory);
    const positions = () => memory.bytes / bytesPerPosition(shape);
    expect(positions()).toBe(shape.contextTokens);
    for (let row = 0; row < 8; row++) arena.open(row === 7 ? 200 : 0);
    expect(positions()).toBe(8 * 256);
    for (let row = 7; row > 0; row--) arena.close([]);
    fill(arena, 0, 100);
    const [array] = memory.arrays;
    arena.trim();
    memory.trim();
    expect([arena.positions, positions(), memory.arrays[0] === array]).toEqual([192, 8 * 256, true]);
    expect(tokensIn(arena, 0)).toHaveLength(100);
    arena.close([]);
    memory.trim();
    expect(positions()).toBe(shape.contextTokens);
    // Not when garbage is collected.
    expect(array.buffer.detached).toBe(true);
  });

  test("two arenas share what there is: one takes what the other leaves, copies nothing, and never writes where the other's rows are", () => {
    const memory = new KvMemory({ ...shape, maximumBytes: 3 * 300 * bytesPerPosition(shape) });
    const [short, long] = [new KvArena(shape, memory), new KvArena(shape, memory, "end")];
    const arrays = [...memory.arrays];
    for (let row = 0; row < 3; row++) {
      long.open();
      fill(long, -1 - row, 290);
    }
    expect(() => short.open()).toThrow(/rows take 64 positions, 0 are free/);
    short.close([]);
    for (let row = 0; row < 2; row++) long.close([]);
    for (let row = 0; row < 9; row++) short.open();
    for (let row = 0; row < 9; row++) fill(short, row, 60);
    expect(tokensIn(long, -1)).toHaveLength(290);
    for (let row = 0; row < 9; row++) expect(tokensIn(short, row)).toHaveLength(60);
    expect(memory.arrays.every((array, i) => array === arrays[i])).toBe(true);
  });

  test("there are as many rows as the maximum, and no more", () => {
    const arena = new KvArena(shape);
    for (let row = 0; row < shape.maximumRows; row++) arena.open();
    expect(() => arena.open()).toThrow(/all 9 rows/);
  });
});
