import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KvArena, KvRow } from "../../../../gpu-backend/kv/arena.ts";
import { bytesPerPosition, KvBudget } from "../../../../gpu-backend/kv/kv-budget.ts";
import { KvMemory, type ParkedKv } from "../../../../gpu-backend/kv/kv-memory.ts";

const seed = 1712;
/** Shape of one array of keys or values. `plain` has two layers of both, and states. */
const pair = { heads: 2, width: 3 };
const plain = { arrays: [pair, pair, pair, pair, { heads: 1, width: 5 }], contextTokens: 300, maximumRows: 9 };
const bytesOf = (positions: number) => positions * bytesPerPosition(plain);
const shape = { ...plain, maximumBytes: bytesOf(plain.maximumRows * plain.contextTokens) };

/** The number that array i holds for a token in element e of its heads. */
const elementOf = (token: number, i: number, e: number) => token + i / 8 + e / 64;

/** New keys and values of each row's tokens, padded to T tokens with NaN. */
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
function tokensIn(arena: KvArena, row: KvRow): number[] {
  const { past, pastLengths, pastTokens: P } = arena.feed([row]);
  return Array.from({ length: pastLengths[0] }, (_, t) => {
    const token = Math.floor(past[0][t * shape.arrays[0].width]);
    shape.arrays.forEach(({ heads: H, width: d }, i) => {
      for (let e = 0; e < H * d; e++) {
        const at = (Math.floor(e / d) * P + t) * d + (e % d);
        // `expect` takes longer than all the rest.
        if (past[i][at] !== Math.fround(elementOf(token, i, e)))
          expect.unreachable(`token ${t} of row ${row.place} is another`);
      }
      if (past[i].length !== H * P * d) expect.unreachable(`array ${i} has ${past[i].length} elements`);
    });
    return token;
  });
}

test.each(["start", "end"] as const)(
  "each row holds what was appended to it, through any moves, parking, growth and trimming, dense and decoding first, in memory that is bounded, from the %s",
  (side) => {
    const often = ["open", "open", "append", "append", "append", "decode"] as const;
    const kinds = [...often, "resume", "close", "park", "trim"] as const;
    const operation = fc.record({
      kind: fc.constantFrom(...kinds),
      pick: fc.nat(),
      count: fc.integer({ min: 1, max: 64 }),
    });
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 60, size: "max" }),
        fc.integer({ min: 2, max: 9 }),
        (operations, contexts) => {
          const maximumBytes = bytesOf(contexts * shape.contextTokens);
          const budget = new KvBudget(shape, maximumBytes, { classBytes: Number.POSITIVE_INFINITY });
          const memory = new KvMemory({ ...shape, maximumBytes });
          const arena = new KvArena({ ...shape, maximumBytes }, memory, side);
          const parked: { aside: ParkedKv; tokens: number[] }[] = [];
          const held = new Map<KvRow, number[]>();
          let decoding = new Set<KvRow>();
          /** Whether memory has room for the rows there are and `rows` more, none of them longer than `length`. */
          const isRoom = (rows: number, length: number) => {
            const running = [...held.keys()];
            const longest = running.reduce((most, { positions, wanted }) => Math.max(most, positions, wanted), length);
            const aside = parked.reduce((sum, { tokens }) => sum + tokens.length, 0);
            return budget.holds(Array<number>(running.length + rows).fill(longest), aside);
          };
          const close = (row: KvRow) => {
            held.delete(row);
            decoding.delete(row);
            arena.close(row);
          };
          let token = 1;
          for (const { kind, pick, count } of operations) {
            const all = [...held.keys()];
            const row = all[pick % all.length];
            if (kind === "park" && row) {
              const tokens = held.get(row)!;
              parked.push({ aside: memory.store(arena.read(row, 0, tokens.length), tokens.length), tokens });
              // The row is closed, which makes room for its copy.
              close(row);
              memory.trim();
            } else if (kind === "resume" && parked.length > 0 && all.length < shape.maximumRows) {
              const { aside, tokens } = parked.splice(pick % parked.length, 1)[0];
              const copy = memory.restore(aside);
              if (!isRoom(1, tokens.length)) continue;
              const resumed = new KvRow(tokens.length);
              arena.open(resumed);
              arena.append([resumed], [tokens.length], copy, tokens.length);
              held.set(resumed, tokens);
            } else if (kind === "open" && all.length < shape.maximumRows) {
              const opened = new KvRow(pick % 2 ? 4 * count : 0);
              if (!isRoom(1, opened.wanted)) continue;
              arena.open(opened);
              held.set(opened, []);
            } else if (kind === "decode") {
              // Some rows stop decoding, others begin.
              decoding = new Set(all.filter((_, i) => (pick >> (i % 16)) & 1));
              arena.decodeOnly(decoding);
            } else if (kind === "close" && row) close(row);
            else if (kind === "append" && row) {
              const isPrefill = pick % 2 === 0;
              const rows = isPrefill ? [row] : arena.inOrder(decoding);
              const T = isPrefill ? count : 1;
              const grown = rows.reduce((most, { positions }) => Math.max(most, positions), 0) + T;
              if (rows.length === 0 || !isRoom(0, grown)) continue;
              const added = rows.map(({ positions }) =>
                Array.from({ length: Math.min(T, shape.contextTokens - positions) }, () => token++),
              );
              const counts = added.map((ids) => ids.length);
              arena.append(rows, counts, freshOf(added, T), T);
              rows.forEach((one, s) => {
                held.get(one)!.push(...added[s]);
              });
            } else arena.trim();
            expect(memory.bytes).toBeLessThanOrEqual(maximumBytes);
            const places = [...held.keys()].toSorted((a, b) => a.place - b.place);
            expect(places.map(({ place }) => place)).toEqual(places.map((_, place) => place));
            expect(new Set(places.slice(0, decoding.size))).toEqual(decoding);
            for (const [one, tokens] of held) expect(tokensIn(arena, one)).toEqual(tokens);
          }
        },
      ),
      { seed, numRuns: 60 },
    );
  },
);

/** An arena, and a row in it for each of the positions `wanted`. */
function arenaOf(wanted: number[], memory = new KvMemory(shape), side: "start" | "end" = "start") {
  const arena = new KvArena(shape, memory, side);
  const open = (positions = 0) => {
    const row = new KvRow(positions);
    arena.open(row);
    return row;
  };
  return { arena, open, rows: wanted.map(open) };
}
const fill = (row: KvRow, count: number) => {
  const tokens = Array.from({ length: count }, (_, t) => t + 1);
  row.arena!.append([row], [count], freshOf([tokens], count), count);
};

test("a copy of some positions of a row is what appending them gave", () => {
  const { arena, rows } = arenaOf([0, 0]);
  const tokens = Array.from({ length: 10 }, (_, t) => t + 1);
  arena.append([rows[1]], [10], freshOf([tokens], 12), 12);
  expect(arena.read(rows[1], 3, 8)).toEqual(freshOf([tokens.slice(3, 8)], 5));
  expect([...arena.state(rows[1], 7)]).toEqual(Array.from({ length: 5 }, (_, e) => Math.fround(elementOf(8, 4, e))));
});

describe("memory", () => {
  test("a pass is fed a view of all positions of the rows, however few they hold", () => {
    const { arena, rows } = arenaOf([0, 200]);
    expect(arena.positions).toBe(256);
    fill(rows[0], 64);
    fill(rows[1], 65);
    const [both, second] = [arena.feed(rows), arena.feed([rows[1]])];
    expect([both.pastTokens, second.pastTokens]).toEqual([256, 256]);
    expect([...both.pastLengths]).toEqual([64, 65]);
    both.past.forEach((array, i) => {
      expect(array.length).toBe(2 * second.past[i].length);
      expect(array.buffer).toBe(second.past[i].buffer);
      expect(array.byteOffset + second.past[i].byteLength).toBe(second.past[i].byteOffset);
    });
  });

  test("the positions that a row wants stay reserved until it is closed, wherever it moves", () => {
    const { arena, rows, open } = arenaOf([0, 200]);
    arena.decodeOnly(new Set([rows[1]]));
    expect(rows[1].place).toBe(0);
    arena.trim();
    expect(arena.positions).toBe(256);
    arena.close(rows[0]);
    arena.trim();
    expect(arena.positions).toBe(256);
    open();
    arena.close(rows[1]);
    arena.trim();
    expect(arena.positions).toBe(64);
  });

  test("positions grow by half, or a third, up to the context, and come back with room to spare", () => {
    const { arena, rows, open } = arenaOf([0]);
    fill(rows[0], 64);
    expect(arena.positions).toBe(64);
    fill(rows[0], 1);
    expect(arena.positions).toBe(128);
    fill(rows[0], 235);
    expect(arena.positions).toBe(300);
    expect(() => fill(rows[0], 1)).toThrow(/301 positions.*300/);
    const short = open();
    fill(short, 60);
    arena.close(rows[0]);
    arena.trim();
    // Not 64: with 60 of them filled the arena would soon grow again.
    expect(arena.positions).toBe(128);
    expect(tokensIn(arena, short)).toHaveLength(60);
    arena.close(short);
    open(10);
    expect(arena.positions).toBe(64);
  });

  test("memory that rows have written is kept for others unless it is far too much; if nothing runs, only one row's is kept", () => {
    const memory = new KvMemory(shape);
    const { arena, open } = arenaOf([], memory);
    const positions = () => memory.bytes / bytesPerPosition(shape);
    expect(positions()).toBe(shape.contextTokens);
    const rows = Array.from({ length: 8 }, (_, row) => open(row === 7 ? 200 : 0));
    expect(positions()).toBe(8 * 256);
    for (const row of rows.splice(1).toReversed()) arena.close(row);
    fill(rows[0], 100);
    const [array] = memory.arrays;
    arena.trim();
    memory.trim();
    expect([arena.positions, positions(), memory.arrays[0] === array]).toEqual([192, 8 * 256, true]);
    expect(tokensIn(arena, rows[0])).toHaveLength(100);
    arena.close(rows[0]);
    memory.trim();
    expect(positions()).toBe(shape.contextTokens);
    // The memory is freed at once, not when garbage is collected.
    expect(array.buffer.detached).toBe(true);
  });

  test("two arenas share memory: one uses what the other leaves, copies nothing, and never writes where the other's rows are", () => {
    const memory = new KvMemory({ ...shape, maximumBytes: bytesOf(3 * 300) });
    const [short, long] = [arenaOf([], memory), arenaOf([], memory, "end")];
    const arrays = [...memory.arrays];
    const longRows = Array.from({ length: 3 }, () => {
      const row = long.open();
      fill(row, 290);
      return row;
    });
    const refused = new KvRow(0);
    expect(() => short.arena.open(refused)).toThrow(/rows take 64 positions, 0 are free/);
    short.arena.close(refused);
    for (const row of longRows.splice(1)) long.arena.close(row);
    const shortRows = Array.from({ length: 9 }, () => short.open());
    for (const row of shortRows) fill(row, 60);
    expect(tokensIn(long.arena, longRows[0])).toHaveLength(290);
    for (const row of shortRows) expect(tokensIn(short.arena, row)).toHaveLength(60);
    expect(memory.arrays.every((array, i) => array === arrays[i])).toBe(true);
  });

  test("there are as many rows as the maximum, and no more", () => {
    const { arena } = arenaOf(Array<number>(shape.maximumRows).fill(0));
    expect(() => arena.open(new KvRow(0))).toThrow(/all 9 rows/);
  });

  test("a pass over rows that do not follow each other, and over another arena's, is an error", () => {
    const { arena, rows } = arenaOf([1, 1, 1]);
    expect(() => arena.feed([rows[0], rows[2]])).toThrow(/row 2 .* not follow/);
    expect(() => arena.feed([rows[0], arenaOf([1, 1]).rows[1]])).toThrow(/not follow/);
  });
});
