import fc from "fast-check";
import { expect, test } from "vitest";
import type { KvRow } from "../../../../gpu-backend/kv/arena.ts";
import { HostKv } from "../../../../gpu-backend/kv/host-kv.ts";
import { bytesPerPosition, KvBudget, kvShapeOf } from "../../../../gpu-backend/kv/kv-budget.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

const seed = 1722;
const one = { layers: 1, heads: 1, kvHeads: 1, headWidth: 1, hiddenSize: 1 };
const config = { ...fakeConfig, ...one, contextTokens: 256 };
const shape = kvShapeOf(config);
const positionBytes = bytesPerPosition(shape);
const maximumRows = 6;
const maximumPositions = 2 * config.contextTokens;
/** A second length class costs little here, so that both classes are in use. */
const classBytes = 16 * positionBytes;
const openKv = (options: { classBytes?: number; maximumPositions?: number } = {}) =>
  new HostKv(
    { ...createFakeRunner({ classBytes: options.classBytes ?? classBytes }), config },
    { maximumRows, maximumBytes: (options.maximumPositions ?? maximumPositions) * positionBytes },
  );

/** A sequence, with what the store must hold for it. */
interface Model {
  id: number;
  kv: KvRow;
  contents: number[];
  wanted: number;
  isParked: boolean;
}

/** Appends `values` to each row as a pass does. */
function append(kv: HostKv, phase: "prefill" | "decode", models: readonly Model[], values: readonly number[]): void {
  const order = kv.inOrder(
    models.map((model) => model.kv),
    phase,
  );
  const owners = order.map((row) => models.find((model) => model.kv === row)!);
  const { pastLengths } = kv.feed(order);
  expect([...pastLengths]).toEqual(owners.map(({ contents }) => contents.length));
  const ids = Float32Array.from(owners.flatMap(({ id }) => values.map(() => id)));
  const all = Float32Array.from(owners.flatMap(() => values));
  kv.append(
    order,
    owners.map(() => values.length),
    [ids, all, all.slice()],
    values.length,
  );
  for (const { contents } of owners) contents.push(...values);
}

test("whatever opens, runs, is parked, resumes, changes its class and ends: each sequence finds what was appended to it, in memory that is bounded, and all is given back", () => {
  const kinds = ["open", "prefill", "prefill", "decode", "decode", "park", "resume", "close"] as const;
  const operation = fc.record({
    kind: fc.constantFrom(...kinds),
    pick: fc.nat(),
    count: fc.integer({ min: 1, max: 90 }),
  });
  const seen = { tight: 0, both: 0 };
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 80, size: "max" }), (operations) => {
      const kv = openKv();
      const budget = new KvBudget(shape, maximumPositions * positionBytes, { classBytes });
      let models: Model[] = [];
      let next = 1;
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
          const opened = { id: next, kv: kv.open(count), contents: [], wanted: count, isParked: false };
          if (!place([...running, opened])) continue;
          models.push(opened);
          next++;
        } else if (kind === "resume" && parked.length > 0) {
          const resumed = parked[pick % parked.length];
          if (place([...running, resumed])) Object.assign(resumed, { isParked: false, wanted: 0 });
        } else if (running.length > 0) {
          const one = running[pick % running.length];
          // A prefill is of one row; a decode pass is of this row and every second one of the others.
          const pass = kind === "prefill" ? [one] : running.filter((other, i) => other === one || (pick + i) % 2 === 0);
          const values = Array.from({ length: kind === "prefill" ? count : 1 }, (_, t) => (pick % 1000) + t);
          if (kind === "park") {
            kv.park(one.kv);
            Object.assign(one, { isParked: true, wanted: 0 });
          } else if (kind === "close") {
            kv.close(one.kv);
            models = models.filter((other) => other !== one);
          } else if (kind !== "resume" && place(running, pass, values.length)) append(kv, kind, pass, values);
        }
        if (pick % 3 === 0) {
          kv.trim();
          expect(kv.bytes).toBeLessThanOrEqual(kv.capacityBytes);
        }
        if (kv.usedBytes > 0.6 * kv.capacityBytes) seen.tight++;
        const held = models.filter(({ isParked }) => !isParked);
        if (
          held.length > 0 &&
          kv.feed(
            kv.inOrder(
              held.map((model) => model.kv),
              "prefill",
            ),
          ).longPast
        )
          seen.both++;
        expect(kv.usedBytes).toBe(models.reduce((sum, { contents }) => sum + contents.length, 0) * positionBytes);
        for (const { id, kv: row, contents } of held) {
          const [keys, values] = kv.copy(row, 0, contents.length).arrays;
          expect([...values]).toEqual(contents);
          if (!keys.every((value) => value === id)) expect.unreachable(`row ${id} holds another's keys`);
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
  const fill = (value: number, others: KvRow[] = []) => {
    const row = kv.open(250);
    kv.place([row, ...others].map((one) => ({ kv: one, positions: 250 })));
    const values = Array<number>(250).fill(value);
    append(kv, "prefill", [{ id: value, kv: row, contents: [], wanted: 250, isParked: false }], values);
    return row;
  };
  const bufferOf = (row: KvRow) => kv.feed(kv.inOrder([row], "prefill")).past[0].buffer;
  const a = fill(1);
  const buffer = bufferOf(a);
  const b = fill(2, [a]);
  kv.close(b);
  kv.park(a);
  kv.trim();
  for (const value of [3, 4]) kv.close(fill(value));
  kv.place([{ kv: a, positions: 251 }]);
  kv.trim();
  expect(bufferOf(a)).toBe(buffer);
  expect(kv.copy(a, 0, 250).arrays[1].every((value) => value === 1)).toBe(true);
  expect(kv.bytes).toBeLessThanOrEqual(kv.capacityBytes);
});

test("a pass with a sequence that has no row is an error, and closing it is none", () => {
  const kv = openKv();
  const row = kv.open(1);
  expect(() => kv.inOrder([row], "decode")).toThrow(/no row/);
  kv.close(row);
});
