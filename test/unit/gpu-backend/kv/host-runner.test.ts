/** The runner on the host: each row gets its own tokens, positions and states, in whatever order a pass names the rows. */
import { expect, test } from "vitest";
import type { KvRow } from "../../../../gpu-backend/kv/arena.ts";
import { HostRunner } from "../../../../gpu-backend/kv/host-runner.ts";
import type { Pass } from "../../../../gpu-backend/kv/runner.ts";
import type { StepInput, StepOutput } from "../../../../gpu-backend/runtime/step.ts";
import { createFakeRunner, fakeConfig, fakeLogits } from "../../../support/fake-runner.ts";

const { hiddenSize: D } = fakeConfig;
const limits = { maxSequences: 4, chunkTokens: 8, kvBytes: 2 ** 24 };
const noBias = { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) };
const headOf = (N: number): Pass["head"] => ({
  ...{ gates: new Float32Array(2 * N), inverseTemperatures: new Float32Array(N).fill(1) },
  ...{ targetIds: new Int32Array(N), bias: noBias, want: { scores: true, hidden: false } },
});

/** A runner over the fake step runner, whose inputs are recorded. `spoil` may change its outputs. */
function open(spoil: (output: StepOutput) => void = () => {}) {
  const steps = createFakeRunner({ classBytes: Number.POSITIVE_INFINITY });
  const inputs: StepInput[] = [];
  const run = async (input: StepInput) => {
    inputs.push(input);
    const output = await steps.run(input);
    spoil(output);
    return output;
  };
  const runner = new HostRunner({ ...steps, run }, limits);
  const pass = (phase: Pass["phase"], rows: Pass["rows"]) => {
    const states = rows.map(({ kv, tokens }) => ({ kv, position: kv.positions + tokens.length - 1 }));
    return runner.run({ phase, rows, states, head: headOf(rows.length) });
  };
  const openRows = (count: number) => {
    const rows = Array.from({ length: count }, () => runner.kv.open(16));
    runner.kv.place(rows.map((kv) => ({ kv, positions: 16 })));
    return rows;
  };
  return { runner, inputs, pass, openRows };
}
const logitsOf = (history: number[]) => fakeLogits(fakeConfig.vocabularySize, history);

test("a pass names rows in any order, and results come in that order", async () => {
  const { runner, pass, openRows } = open();
  const histories = new Map<KvRow, number[]>(openRows(3).map((kv, i) => [kv, [10 * i + 1, 10 * i + 2]]));
  for (const [kv, tokens] of histories) await pass("prefill", [{ kv, tokens }]);
  for (const order of [
    [2, 0, 1],
    [1, 2, 0],
  ]) {
    const named = order.map((i) => [...histories][i]);
    const rows = named.map(([kv], n) => ({ kv, tokens: [40 + n] }));
    const output = await pass("decode", rows);
    named.forEach(([kv, history], n) => {
      history.push(40 + n);
      expect(output.scores!.subarray(100 * n, 100 * n + 100)).toEqual(logitsOf(history));
      expect(kv.positions).toBe(history.length);
    });
  }
  const positionBytes = runner.kv.capacityBytes / (2 * limits.maxSequences * fakeConfig.contextTokens);
  expect(runner.kv.usedBytes).toBe(12 * positionBytes);
});

test("a run of the head alone reads the states that earlier passes left, wherever the rows have moved, and moves no row", async () => {
  const { runner, inputs, pass, openRows } = open();
  const [a, b] = openRows(2);
  await pass("prefill", [{ kv: a, tokens: [1, 2, 3] }]);
  await pass("prefill", [{ kv: b, tokens: [7, 8] }]);
  runner.kv.park(a);
  runner.kv.trim();
  runner.kv.place([b, a].map((kv) => ({ kv, positions: 4 })));
  const decoding = [a, b].map((kv) => ({ kv, tokens: [9] }));
  await pass("decode", decoding);
  const places = [a.place, b.place];
  const at: [KvRow, number][] = [
    [b, 1],
    [a, 2],
    [a, 0],
  ];
  const states = at.map(([kv, position]) => ({ kv, position }));
  await runner.run({ phase: "decode", rows: [], states, head: headOf(0) });
  expect([a.place, b.place]).toEqual(places);
  const { sequences, headRows, fedStates } = inputs.at(-1)!;
  expect([sequences, headRows.length, fedStates?.length]).toEqual([0, 0, 3 * D]);
  expect([0, 1, 2].map((m) => [...fedStates!.subarray(m * D, m * D + 2)])).toEqual([
    [8, 1 + 1 / 16],
    [3, 2 + 1 / 16],
    [1, 0 + 1 / 16],
  ]);
});

test("a number that is not finite is reported for its row alone, and not kept", async () => {
  const spoiltId = 66;
  const { pass, openRows } = open(({ states }) => {
    for (let s = 0; s < states.length; s += D) if (states[s] === spoiltId) states[s] = Number.POSITIVE_INFINITY;
  });
  const [a, b] = openRows(2);
  for (const kv of [a, b]) await pass("prefill", [{ kv, tokens: [1, 2] }]);
  const { finite } = await pass("decode", [
    { kv: b, tokens: [spoiltId] },
    { kv: a, tokens: [3] },
  ]);
  expect([[...finite], a.positions, b.positions]).toEqual([[0, 1], 3, 2]);
});

test("a block is the same to another row whether it is the pass's own or a copy, and outlives its row", async () => {
  const { runner, pass, openRows } = open();
  const [a, b, c] = openRows(3);
  await pass("prefill", [{ kv: a, tokens: [1, 2, 3, 4, 5, 6, 7, 8] }]);
  const [own, copied] = [runner.kv.copy(a, 0, 8), runner.kv.copy(a, 0, 8)];
  expect(own.bytes).toBe(copied.bytes);
  runner.kv.close(a);
  runner.kv.write(b, own, 8);
  runner.kv.write(c, copied, 5);
  for (const block of [own, copied]) block.free();
  const onB = await pass("prefill", [{ kv: b, tokens: [50] }]);
  expect(onB.scores).toEqual(logitsOf([1, 2, 3, 4, 5, 6, 7, 8, 50]));
  const onC = await pass("prefill", [{ kv: c, tokens: [50, 51] }]);
  expect(onC.scores).toEqual(logitsOf([1, 2, 3, 4, 5, 50, 51]));
});
