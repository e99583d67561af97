import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ModelFolder, readModelFolder } from "../../gpu-backend/runtime/model-folder.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { Bank, StepInput, StepRunner } from "../../gpu-backend/runtime/step.ts";
import { createEngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { smallBase } from "../support/small-base.ts";
import { grownPast, maxDifference, noPast, randomBank, type StepRow, seededRandom, stepOf } from "../support/steps.ts";
import { webgpuFailure } from "../support/webgpu.ts";

/** As between one step on the device and on the CPU; errors of keys and values add up over a few steps. */
const tolerance = 2e-4;
const seed = 20_261_126;
const random = seededRandom(seed);
const failure = await webgpuFailure();

describe.skipIf(failure)(`the past on WebGPU${failure ? `, skipped: ${failure}` : ""}`, () => {
  let model: ModelFolder;
  let bank: Bank;
  let onCpu: StepRunner;
  let onGpu: StepRunner;
  let lastName = 0;

  beforeAll(async () => {
    model = await readModelFolder(smallBase);
    bank = randomBank(model.config, 12, 3, random);
    onCpu = await createStepRunner({ ...model, bank, threads: 1 });
    onGpu = await createStepRunner({ ...model, bank, threads: 1, device: "webgpu" });
  });
  afterAll(() => Promise.all([onCpu?.release(), onGpu?.release()]));

  interface NamedRow extends StepRow {
    name: number;
  }
  const integer = (below: number) => Math.floor(random() * below);
  const ids = (count: number) => Array.from({ length: count }, () => integer(model.config.vocabularySize));
  const newRow = (length: number): NamedRow => ({
    name: ++lastName,
    tokenIds: ids(length),
    gates: Float32Array.from({ length: bank.gates }, () => random() * 4 - 2),
    ...noPast(model.config),
  });

  /**
   * Runs the step on both, checks it and returns its rows with their past grown, with `next` tokens each to go on with.
   * With `isHidden` the device's step is fed NaN for a past; with `isCpuOnly` the device never hears of it.
   */
  async function stepBoth(
    rows: NamedRow[],
    options: { kept?: NamedRow[]; isHidden?: boolean; isCpuOnly?: boolean; next?: number } = {},
  ): Promise<NamedRow[]> {
    const { kept = rows, isHidden = false, isCpuOnly = false, next = 1 } = options;
    const input: StepInput = {
      ...stepOf(model.config, rows),
      pastRows: { fed: rows.map(({ name }) => name), kept: kept.map(({ name }) => name) },
    };
    const fedToGpu = {
      ...input,
      past: input.past.map((p) => (isHidden ? new Float32Array(p.length).fill(Number.NaN) : p)),
    };
    const cpu = await onCpu.run(input);
    if (!isCpuOnly) {
      const difference = maxDifference((await onGpu.run(fedToGpu)).scores!, cpu.scores!);
      worst = Math.max(worst, difference);
      expect(difference).toBeLessThan(tolerance);
    }
    return rows.map((row, s) => ({
      ...row,
      past: grownPast(model.config, row, s, input, cpu),
      pastLength: row.pastLength + row.tokenIds.length,
      tokenIds: ids(next),
    }));
  }
  let worst = 0;

  test("what a step has computed is never read from the host again, in any order, with padding between", async () => {
    let rows = await stepBoth([newRow(9), newRow(3), newRow(20)]);
    for (let step = 0; step < 3; step++) rows = (await stepBoth(rows.reverse(), { isHidden: true })).reverse();
    const [first, , third] = rows;
    await stepBoth([third, first], { kept: rows, isHidden: true });
    await stepBoth(rows.slice(1, 2), { kept: rows, isHidden: true });
  });

  test("what the host alone has is uploaded, and held from then on", async () => {
    const [known] = await stepBoth([newRow(6)]);
    const [stranger] = await stepBoth([newRow(30)], { isCpuOnly: true });
    const rows = await stepBoth([stranger, known]);
    await stepBoth(rows, { isHidden: true });
  });

  test("a past that outgrows the device's room starts again from the host", async () => {
    let rows = await stepBoth([newRow(60), newRow(2)], { next: 3 });
    for (let step = 0; step < 3; step++) rows = await stepBoth(rows, { next: 3 });
    await stepBoth(rows, { isHidden: true });
  });

  test("the last position of the context is written, the padding beyond it is not", async () => {
    const { contextTokens } = model.config;
    const [long] = await stepBoth([newRow(contextTokens - 2)]);
    // Beside eight tokens of another, the one token of the long row is padded past the end.
    const rows = await stepBoth([long, newRow(8)]);
    await stepBoth(rows, { isHidden: true });
  });

  test("sequences that come, grow and leave at random", async () => {
    let rows: NamedRow[] = [];
    for (let step = 0; step < 25; step++) {
      if (rows.length < 7 && random() < 0.5) rows.push(newRow(1 + integer(20)));
      if (rows.length > 1 && random() < 0.3) rows.splice(integer(rows.length), 1);
      if (rows.length === 0) continue;
      const first = integer(rows.length);
      const fed = rows.slice(first, first + 1 + integer(rows.length - first));
      const grown = await stepBoth(fed, { kept: rows });
      rows = [...rows.slice(0, first), ...grown, ...rows.slice(first + fed.length)];
    }
  });

  test("the engine generates the same tokens on either, joined while others decode", async () => {
    const prompts = [5, 70, 1, 33, 12].map(ids);
    const generate = async (runner: StepRunner) => {
      const harness = createEngineHarness({ runner });
      for (const [i, prompt] of prompts.entries()) {
        const request = sequenceRequest(`s${i}`, prompt, { maxTokens: 4 + 3 * i });
        await harness.engine.submit(["c0", "c1", null][i % 3], [request]);
        for (let step = 0; step < 3; step++) if (harness.engine.busy) await harness.engine.step();
      }
      await harness.finish();
      return prompts.map((_, i) => harness.tokensOf(`s${i}`));
    };
    const expected = await generate(onCpu);
    expect(expected.flat().length).toBeGreaterThan(20);
    expect(await generate(onGpu)).toEqual(expected);
  });
});
