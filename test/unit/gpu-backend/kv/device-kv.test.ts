/** Rows on a device whose memory is a stub: which rows fit, and that those that fit get places. */
import { expect, test } from "vitest";
import { DeviceKv } from "../../../../gpu-backend/kv/device-kv.ts";
import type { DeviceMemory } from "../../../../gpu-backend/runtime/device-memory.ts";
import type { deviceView } from "../../../../gpu-backend/runtime/session.ts";
import { tinyLlama } from "../../../support/tiny-families.ts";

const config = { ...tinyLlama, contextTokens: 2048 };
/** Bytes of the keys, values and states of a position. */
const positionBytes = 4 * (2 * config.layers * config.kvHeads * config.headWidth + config.hiddenSize);

/** Keeps no values. */
function stubMemory(): DeviceMemory {
  const tensor = { gpuBuffer: {} } as Parameters<typeof deviceView>[0];
  const stub: Partial<DeviceMemory> = {
    session: async () => ({}) as Awaited<ReturnType<DeviceMemory["session"]>>,
    allocate: async (elements) => ({ tensor, elements }),
    free: () => undefined,
    run: async () => ({}),
  };
  return stub as DeviceMemory;
}

const open = (positions: number, leastRows = 1) => {
  const limits = { maximumRows: 8, maximumBytes: positions * positionBytes, format: "fp32" as const, leastRows };
  return DeviceKv.open(config, stubMemory(), limits);
};

test("rows that fit beside a parked beginning of a long prompt get places, and the prompt has room when it resumes", async () => {
  // Two rows of 2,040 positions and the one of prefills fit, three do not.
  const kv = await open(8192);
  const [first, long] = [kv.open(100), kv.open(2040)];
  kv.place([
    { kv: first, positions: 100 },
    { kv: long, positions: 2040 },
  ]);
  kv.advance(long, 128);
  kv.park(long);
  expect(kv.holds([100, 60], [128])).toBe(true);
  const next = kv.open(60);
  kv.place([
    { kv: first, positions: 100 },
    { kv: next, positions: 60 },
  ]);
  await kv.settled();
  expect(kv.bytes).toBeLessThanOrEqual(kv.capacityBytes);
  kv.close(next);
  expect(kv.holds([100, 2040], [])).toBe(true);
  kv.place([
    { kv: first, positions: 100 },
    { kv: long, positions: 2040 },
  ]);
  expect(kv.stateIndex(kv.placeOf(long), 2040)).toBeGreaterThan(0);
  await kv.settled();
});

test("memory must hold one context and the row of its prefill, with a position more each", async () => {
  const bytes = 2 * 2049 * positionBytes;
  expect((await open(2 * 2049)).holds([2048], [])).toBe(true);
  await expect(open(2 * 2049 - 1)).rejects.toThrow(
    new RegExp(`one sequence of 2048 positions needs ${bytes} on a device`),
  );
});

test("a pass of one row runs on as many rows as its format needs, which memory must hold", async () => {
  await expect(open(5 * 2049 - 1, 4)).rejects.toThrow(/needs \d+ on a device/);
  const kv = await open(5 * 2049, 4);
  const row = kv.open(2048);
  kv.place([{ kv: row, positions: 2048 }]);
  await kv.settled();
  expect(kv.placesFor([row])).toBe(4);
  expect(kv.first(4).positions).toEqual([0, 0, 0, 0]);
  expect(kv.bytes).toBeLessThanOrEqual(kv.capacityBytes);
});
