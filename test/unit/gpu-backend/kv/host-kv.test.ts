/** Keys and values in the host's memory: each row holds what was appended to it, and memory is bounded. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { KvArena, KvRow } from "../../../../gpu-backend/kv/arena.ts";
import { HostKv } from "../../../../gpu-backend/kv/host-kv.ts";
import { bytesPerPosition, KvBudget, kvShapeOf } from "../../../../gpu-backend/kv/kv-budget.ts";
import { KvMemory } from "../../../../gpu-backend/kv/kv-memory.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

const seed = 1722;
const config = { ...fakeConfig, headWidth: 3, hiddenSize: 5, contextTokens: 300 };
const plain = kvShapeOf(config);
const positionBytes = bytesPerPosition(plain);
const shape = { ...plain, maximumRows: 9, maximumBytes: 9 * config.contextTokens * positionBytes };

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
function tokensIn(store: Pick<KvArena, "feed">, row: KvRow): number[] {
  const { past, pastLengths, pastTokens: P } = store.feed([row]);
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

const maximumRows = 6;
const maximumPositions = 2 * config.contextTokens;
/** A second length class costs little here, so that both classes are in use. */
const classBytes = 16 * positionBytes;
const openKv = () =>
  new HostKv(
    { ...createFakeRunner({ classBytes }), config },
    { maximumRows, maximumBytes: maximumPositions * positionBytes },
  );

/** A sequence, with the tokens that the store must hold for it. */
interface Model {
  kv: KvRow;
  contents: number[];
  wanted: number;
  isParked: boolean;
}

/** Expects that the rows of each arena have places without gaps, decoding ones first. `decoding`: their arenas when they last decoded. */
function expectPlaces(rows: readonly KvRow[], decoding: ReadonlyMap<KvRow, KvArena | null>): void {
  for (const arena of new Set(rows.map((row) => row.arena))) {
    const own = rows.filter((row) => row.arena === arena).sort((a, b) => a.place - b.place);
    expect(own.map(({ place }) => place)).toEqual([...own.keys()]);
    const isDecoding = own.map((row) => decoding.get(row) === arena);
    expect(isDecoding.lastIndexOf(true)).toBeLessThan(isDecoding.filter(Boolean).length);
  }
}

let nextToken = 1;
/** Appends `count` new tokens to each row as a pass does. */
function append(kv: HostKv, phase: "prefill" | "decode", models: readonly Model[], count: number): void {
  const rows = models.map((model) => model.kv);
  const order = kv.inOrder(rows, phase);
  const owners = order.map((row) => models.find((model) => model.kv === row)!);
  expect([...kv.feed(order).pastLengths]).toEqual(owners.map(({ contents }) => contents.length));
  const added = owners.map(() => Array.from({ length: count }, () => nextToken++));
  const counts = owners.map(() => count);
  kv.append(order, counts, freshOf(added, count), count);
  for (const [s, { contents }] of owners.entries()) contents.push(...added[s]);
}

test("under random use each row holds what was appended to it, in bounded memory, and all memory is given back", () => {
  const kinds = ["open", "prefill", "prefill", "decode", "decode", "park", "resume", "close"] as const;
  const count = fc.integer({ min: 1, max: 90 });
  const operation = fc.record({ kind: fc.constantFrom(...kinds), pick: fc.nat(), count });
  const seen = { tight: 0, both: 0 };
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80, size: "max" }), (operations) => {
      const kv = openKv();
      const budget = new KvBudget(shape, maximumPositions * positionBytes, { classBytes });
      let models: Model[] = [];
      let decoding = new Map<KvRow, KvArena | null>();
      nextToken = 1;
      for (const { kind, pick, count } of operations) {
        const running = models.filter(({ isParked }) => !isParked);
        const parked = models.filter(({ isParked }) => isParked);
        const neededBy = ({ contents, wanted }: Model, more = 0) => Math.max(contents.length + more, wanted);
        /** Places all these rows if they fit. Rows of `growing` get `more` positions. */
        const place = (all: readonly Model[], growing: readonly Model[] = [], more = 0) => {
          const lengths = all.map((model) => neededBy(model, growing.includes(model) ? more : 0));
          const aside = models.filter((model) => model.isParked && !all.includes(model));
          const parkedPositions = aside.reduce((sum, { contents }) => sum + contents.length, 0);
          if (all.length > maximumRows || Math.max(0, ...lengths) > config.contextTokens) return false;
          if (!budget.holds(lengths, parkedPositions)) return false;
          kv.place(all.map((model, i) => ({ kv: model.kv, positions: lengths[i] })));
          return true;
        };
        if (kind === "open") {
          const opened = { kv: kv.open(count), contents: [], wanted: count, isParked: false };
          if (place([...running, opened])) models.push(opened);
        } else if (kind === "resume" && parked.length > 0) {
          const resumed = parked[pick % parked.length];
          if (place([...running, resumed])) Object.assign(resumed, { isParked: false, wanted: 0 });
        } else if (running.length > 0) {
          const one = running[pick % running.length];
          // A prefill is of one row; a decode pass is of this row and every second one of the others.
          const pass = kind === "prefill" ? [one] : running.filter((other, i) => other === one || (pick + i) % 2 === 0);
          const added = kind === "prefill" ? count : 1;
          if (kind === "park") {
            kv.park(one.kv);
            Object.assign(one, { isParked: true, wanted: 0 });
          } else if (kind === "close") {
            kv.close(one.kv);
            models = models.filter((other) => other !== one);
          } else if (kind !== "resume" && place(running, pass, added)) {
            append(kv, kind, pass, added);
            if (kind === "decode") decoding = new Map(pass.map(({ kv: row }) => [row, row.arena]));
          }
        }
        if (pick % 3 === 0) {
          kv.trim();
          expect(kv.bytes).toBeLessThanOrEqual(kv.capacityBytes);
        }
        if (kv.usedBytes > 0.6 * kv.capacityBytes) seen.tight++;
        const held = models.filter(({ isParked }) => !isParked);
        const rows = held.map((model) => model.kv);
        // A row that enters an arena does not decode yet.
        for (const [row, arena] of decoding) if (row.arena !== arena) decoding.delete(row);
        expectPlaces(rows, decoding);
        if (held.length > 0 && kv.feed(kv.inOrder(rows, "prefill")).longPast) seen.both++;
        expect(kv.usedBytes).toBe(models.reduce((sum, { contents }) => sum + contents.length, 0) * positionBytes);
        for (const { kv: row, contents } of held) {
          expect(tokensIn(kv, row)).toEqual(contents);
          const { arrays } = kv.copy(row, 0, contents.length);
          const isCopy = freshOf([contents], contents.length).every((own, i) =>
            own.every((x, e) => x === arrays[i][e]),
          );
          if (!isCopy) expect.unreachable(`a copy of row ${row.place} is another`);
        }
      }
      for (const { kv: row } of models) kv.close(row);
      kv.trim();
      expect(kv.usedBytes).toBe(0);
      expect(kv.bytes).toBeLessThanOrEqual(config.contextTokens * positionBytes);
    }),
    { seed, numRuns: 150 },
  );
  expect(seen.tight).toBeGreaterThan(100);
  expect(seen.both).toBeGreaterThan(100);
});

test("parking copies nothing but the row, however far both ends of the arrays were written", () => {
  const kv = openKv();
  const fill = (...others: KvRow[]) => {
    const row = kv.open(250);
    kv.place([row, ...others].map((one) => ({ kv: one, positions: 250 })));
    append(kv, "prefill", [{ kv: row, contents: [], wanted: 250, isParked: false }], 250);
    return row;
  };
  const bufferOf = (row: KvRow) => kv.feed(kv.inOrder([row], "prefill")).past[0].buffer;
  const a = fill();
  const tokens = tokensIn(kv, a);
  const buffer = bufferOf(a);
  const b = fill(a);
  kv.close(b);
  kv.park(a);
  kv.trim();
  for (let i = 0; i < 2; i++) kv.close(fill());
  kv.place([{ kv: a, positions: 251 }]);
  kv.trim();
  expect(bufferOf(a)).toBe(buffer);
  expect(tokensIn(kv, a)).toEqual(tokens);
  expect(kv.bytes).toBeLessThanOrEqual(kv.capacityBytes);
});

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

test("memory that rows have written is kept for others unless it is far too much; if nothing runs, only one row's is kept", () => {
  const memory = new KvMemory(shape);
  const { arena, open } = arenaOf([], memory);
  const positions = () => memory.bytes / positionBytes;
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
  const memory = new KvMemory({ ...shape, maximumBytes: 900 * positionBytes });
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

test("a row that was parked within its prompt has room for the whole prompt again", () => {
  const kv = openKv();
  const row = kv.open(250);
  kv.place([{ kv: row, positions: 251 }]);
  kv.append([row], [10], freshOf([Array.from({ length: 10 }, (_, t) => t)], 10), 10);
  kv.park(row);
  kv.place([{ kv: row, positions: 251 }]);
  expect(tokensIn(kv, row)).toHaveLength(10);
  expect(kv.feed([row]).pastTokens).toBeGreaterThanOrEqual(250);
});
