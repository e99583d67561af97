import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ModelFolder, readModelFolder } from "../../gpu-backend/models/safetensors/model-folder.ts";
import type { Bank, StepInput, StepOutput, StepRunner } from "../../gpu-backend/runtime/step.ts";
import { createEngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { randomWeights } from "../support/random-weights.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { grownPast, maxDifference, noPast, randomBank, type StepRow, seededRandom, stepOf } from "../support/steps.ts";
import { tinyLlama } from "../support/tiny-families.ts";
import { webgpuFailure } from "../support/webgpu.ts";

/** Float32 sums of a few hundred products in different orders; logits are about 10. */
const tolerance = 1e-4;
const seed = 20_261_125;
const random = seededRandom(seed);
const failure = await webgpuFailure();

describe.skipIf(failure).each(["GPT-2", "Llama"])(
  `a %s on WebGPU${failure ? `, skipped: ${failure}` : ""}`,
  (family) => {
    let model: Pick<ModelFolder, "config" | "weights">;
    let bank: Bank;
    let onCpu: StepRunner;
    let onGpu: StepRunner;

    beforeAll(async () => {
      const random = seededRandom(seed);
      if (family === "GPT-2") model = await readModelFolder(smallBase);
      else model = { config: tinyLlama, weights: randomWeights(tinyLlama, random, 0.25) };
      bank = randomBank(model.config, 12, 3, random);
      onCpu = await createStepRunner({ ...model, bank, threads: 1 });
      onGpu = await createStepRunner({ ...model, bank, threads: 1, device: "webgpu" });
    });
    afterAll(() => Promise.all([onCpu?.release(), onGpu?.release()]));

    const rowOf = (length: number): StepRow => ({
      tokenIds: Array.from({ length }, () => Math.floor(random() * model.config.vocabularySize)),
      gates: Float32Array.from({ length: bank.gates }, () => random() * 4 - 2),
      ...noPast(model.config),
    });

    /** Asks for every output that a step can give. */
    function askedOf(input: StepInput): StepInput {
      const N = input.headRows.length;
      input.inverseTemperatures = Float32Array.from({ length: N }, () => 0.5 + random());
      input.targetIds = Int32Array.from({ length: N }, () => Math.floor(random() * model.config.vocabularySize));
      input.bias = {
        rows: Int32Array.of(0, N - 1),
        ids: Int32Array.of(11, model.config.vocabularySize - 1),
        values: Float32Array.of(3, -2),
      };
      return input;
    }

    /** Largest difference among the float outputs. The ranked ids must be equal. */
    function differenceOf(gpu: StepOutput, cpu: StepOutput): number {
      expect(gpu.topIds).toEqual(cpu.topIds);
      const sums = ["logSumExp", "scaledLogSumExp", "targetScores"] as const;
      const floats = ["present", "topScores", ...sums, "scores", "hidden"] as const;
      return Math.max(...floats.map((name) => maxDifference(gpu[name]!, cpu[name]!)));
    }

    test("a ragged prefill and the decode step after it are the CPU's, in every output", async () => {
      const rows = [40, 3, 17, 2].map(rowOf);
      const prefill = askedOf(stepOf(model.config, rows, { pastTokens: 64 }));
      const prefilled = await onCpu.run(prefill);
      const prefillDifference = differenceOf(await onGpu.run(prefill), prefilled);
      const grown = rows.map((row, s) => ({
        ...rowOf(1),
        past: grownPast(model.config, row, s, prefill, prefilled),
        pastLength: row.tokenIds.length,
      }));
      const decode = askedOf(stepOf(model.config, grown, { pastTokens: 64 }));
      const decodeDifference = differenceOf(await onGpu.run(decode), await onCpu.run(decode));
      expect(prefillDifference).toBeLessThan(tolerance);
      expect(decodeDifference).toBeLessThan(tolerance);
    });

    test("the engine generates the same tokens on GPU and CPU, also for sequences that join while others decode", async () => {
      const prompts = [5, 70, 1, 33, 12].map((length) => rowOf(length).tokenIds);
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
  },
);
