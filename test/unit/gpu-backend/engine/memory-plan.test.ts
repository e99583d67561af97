import { expect, test } from "vitest";
import { memoryLimit, memorySentence, planMemory } from "../../../../gpu-backend/host/memory-plan.ts";
import { gpt2Config } from "../../../bench/model.ts";

const GB = 1e9;
/** Bytes of 1,024 positions of GPT-2 124M: int8 keys and values with a scale for each head, and states. */
const contextBytes = 1024 * (24 * 12 * (64 + 4) + 768 * 4);
const settings = {
  ...{
    model: gpt2Config,
    weightFormat: "int8" as const,
    isInBlocks: false,
    sets: 2,
    maxSequences: 32,
    isOnDevice: false,
  },
  ...{ kvBytes: null, prefixCacheBytes: 0.25 * GB, memoryCacheBytes: 0.25 * GB },
};
const plan = (limitBytes: number, rest: Partial<Parameters<typeof planMemory>[0]> = {}) =>
  planMemory({ ...settings, limitBytes, ...rest });
const sum = (parts: Record<string, number>) => Object.values(parts).reduce((total, bytes) => total + bytes, 0);

test("keys and values get a share of what sessions and caches leave, and all stays within the limit", () => {
  for (const limitBytes of [4 * GB, 5 * GB, 6 * GB]) {
    const { kvBytes, parts, plannedBytes } = plan(limitBytes, { maxSequences: 256 });
    expect(plannedBytes).toBe(sum(parts));
    expect(plannedBytes).toBeLessThan(limitBytes);
    expect(parts.kv).toBe(2 * kvBytes);
    const left = limitBytes - (plannedBytes - parts.kv);
    expect(parts.kv / left).toBeCloseTo(0.8, 6);
  }
});

test("keys and values get no more than the slots can use, and at least one context", () => {
  expect(plan(64 * GB).kvBytes).toBe(32 * contextBytes);
  expect(plan(64 * GB, { maxSequences: 4 }).kvBytes).toBe(4 * contextBytes);
  const small = plan(1 * GB);
  expect(small.kvBytes).toBe(contextBytes);
  expect(small.plannedBytes).toBeGreaterThan(1 * GB);
});

test("a set size is taken as it is, and the message names both numbers if it is too large", () => {
  const within = plan(8 * GB, { kvBytes: 1 * GB });
  expect(within.parts.kv).toBe(2 * GB);
  expect(memorySentence(within)).toContain("within the limit of 8000 MB");
  const beyond = plan(4 * GB, { kvBytes: 2 * GB });
  expect(memorySentence(beyond)).toContain(`Up to ${Math.round(beyond.plannedBytes / 1e6)} MB`);
  expect(memorySentence(beyond)).toContain("more than the limit of 4000 MB");
});

test("a device's keys and values are a fixed amount, whatever the host has, which holds a context and takes no memory of the host", () => {
  const onDevice = (limitBytes: number, rest = {}) =>
    plan(limitBytes, { isOnDevice: true, weightFormat: "fp32", ...rest });
  for (const limitBytes of [6 * GB, 128 * GB])
    expect(onDevice(limitBytes)).toMatchObject({ kvBytes: 4 * GB, parts: { kv: 0 } });
  expect(onDevice(6 * GB, { kvBytes: 1 * GB }).kvBytes).toBe(1 * GB);
  const model = { ...gpt2Config, contextTokens: 2 ** 17 };
  expect(onDevice(6 * GB, { model, maxSequences: 1 }).kvBytes).toBe(2 * (2 ** 17 + 1) * 4 * (24 * 768 + 768));
});

test("the limit is that of the control group where it has one", () => {
  expect(memoryLimit(4 * GB, 16 * GB)).toBe(4 * GB);
  expect(memoryLimit(0, 16 * GB)).toBe(16 * GB);
  // Without a limit, version 1 of control groups reports more bytes than any machine has.
  expect(memoryLimit(2 ** 63, 16 * GB)).toBe(16 * GB);
});
