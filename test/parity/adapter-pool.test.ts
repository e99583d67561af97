/** Full adapters, the paper's kind, in the slots of one graph. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type ModelFolder, readModelFolder } from "../../gpu-backend/runtime/model-folder.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { Bank, StepRunner } from "../../gpu-backend/runtime/step.ts";
import { oracleHidden, oracleLogits } from "../support/gpt2-oracle.ts";
import { maxDifference, noPast, randomBank, type StepRow, seededRandom, stepOf } from "../support/steps.ts";

const tolerance = 1e-4; // float32 sums against float64
const seed = 4315;
const random = seededRandom(seed);
const slots = 3;
const rank = 4;

let model: ModelFolder;
let bank: Bank;
let runner: StepRunner;
/** Each slot's own directions as a bank whose gates are all 1, so that the oracle needs no second formula. */
let owned: Bank[];

beforeAll(async () => {
  console.log(`seed ${seed}, tolerance ${tolerance}`);
  model = await readModelFolder(fileURLToPath(new URL("../../gpu-backend/models/chameleon-mini", import.meta.url)));
  bank = randomBank(model.config, 4, 1, random);
  runner = await createStepRunner({ ...model, bank, threads: 1, pool: { slots, rank } });
  owned = Array.from({ length: slots }, () => randomBank(model.config, rank, 0, random));
  for (const [slot, { a, b }] of owned.entries()) runner.pool!.write(slot, a, b);
});
afterAll(() => runner.release());

function randomRows(count: number): StepRow[] {
  return Array.from({ length: count }, (_, i) => ({
    tokenIds: Array.from({ length: 3 + i }, () => Math.floor(random() * model.config.vocabularySize)),
    gates: Float32Array.from({ length: bank.gates }, () => random() * 2 - 1),
    ...noPast(model.config),
  }));
}

test("rows of one step wear the directions of their slots on top of the bank's, as the oracle has it", async () => {
  const rows = randomRows(4);
  const input = { ...stepOf(model.config, rows), poolSlots: Int32Array.of(2, -1, 0, 2) };
  const { scores: logits } = await runner.run(input);
  const V = model.config.vocabularySize;
  let worst = 0;
  rows.forEach(({ tokenIds, gates }, s) => {
    const hidden = oracleHidden(model.config, model.weights, tokenIds).at(-1)!;
    const expected = oracleLogits(model.config, model.weights, hidden, bank, gates);
    const slot = input.poolSlots[s];
    if (slot >= 0) {
      const ones = new Float32Array(rank).fill(1);
      const own = oracleLogits(model.config, model.weights, hidden, owned[slot], ones);
      const base = oracleLogits(model.config, model.weights, hidden, owned[slot], new Float32Array(rank));
      own.forEach((logit, id) => {
        expected[id] += logit - base[id];
      });
    }
    worst = Math.max(worst, maxDifference(logits!.subarray(s * V, (s + 1) * V), expected));
  });
  console.log(`max |graph − oracle| ${worst.toExponential(2)}`);
  expect(worst).toBeLessThan(tolerance);
});

test("a slot's row is the same bits alone and among mates of other slots; hidden states never change", async () => {
  // A step of one row and several tokens has other bits (step.ts).
  const rows = randomRows(8).map((row) => ({ ...row, tokenIds: row.tokenIds.slice(0, 1) }));
  const V = model.config.vocabularySize;
  const poolSlots = Int32Array.from(rows, (_, s) => (s % (slots + 1)) - 1);
  const together = await runner.run({ ...stepOf(model.config, rows), poolSlots });
  const without = await runner.run(stepOf(model.config, rows));
  expect(maxDifference(together.hidden!, without.hidden!)).toBe(0);
  for (const [s, row] of rows.entries()) {
    const alone = await runner.run({ ...stepOf(model.config, [row]), poolSlots: poolSlots.subarray(s, s + 1) });
    const mine = together.scores!.subarray(s * V, (s + 1) * V);
    expect(maxDifference(alone.scores!, mine)).toBe(0);
    const difference = maxDifference(mine, without.scores!.subarray(s * V, (s + 1) * V));
    if (poolSlots[s] < 0) expect(difference).toBe(0);
    else expect(difference).toBeGreaterThan(0.01);
  }
});

test("a rewritten slot serves its new directions from the next step on, and leaves its neighbours alone", async () => {
  const rows = randomRows(2);
  const input = { ...stepOf(model.config, rows), poolSlots: Int32Array.of(0, 1) };
  const before = await runner.run(input);
  const { a, b } = randomBank(model.config, rank, 0, random);
  runner.pool!.write(0, a, b);
  const after = await runner.run(input);
  const V = model.config.vocabularySize;
  expect(maxDifference(after.scores!.subarray(0, V), before.scores!.subarray(0, V))).toBeGreaterThan(0.01);
  expect(maxDifference(after.scores!.subarray(V), before.scores!.subarray(V))).toBe(0);
});

test("a slot that does not exist and directions of another size are refused with both numbers", () => {
  const { a, b } = owned[0];
  expect(() => runner.pool!.write(3, a, b)).toThrow(/3.*3/);
  expect(() => runner.pool!.write(0, a.subarray(1), b)).toThrow(/512.*511/);
});

test("an adapter gives the same bits in every slot, also past the 128 columns that a product sums at a time", async () => {
  // Of rank 6 it would not: slot 21 then lies across the boundary. So serving rounds ranks up to a power of two.
  const wide = await createStepRunner({ ...model, bank, threads: 1, pool: { slots: 40, rank } });
  for (let slot = 0; slot < 40; slot++) {
    const { a, b } = randomBank(model.config, rank, 0, random);
    wide.pool!.write(slot, a, b);
  }
  const input = stepOf(model.config, randomRows(1));
  const logits = [];
  for (const slot of [0, 1, 21, 31, 32, 39]) {
    wide.pool!.write(slot, owned[0].a, owned[0].b);
    const output = await wide.run({ ...input, poolSlots: Int32Array.of(slot) });
    logits.push(output.scores!);
  }
  for (const row of logits) expect(maxDifference(row, logits[0])).toBe(0);
  await wide.release();
});
