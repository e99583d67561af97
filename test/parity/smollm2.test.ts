/** The embedded SmolLM2-135M-Instruct in every format against PyTorch in float32 with the same weights. */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readSmoothing } from "../../gpu-backend/engine/smoothing-file.ts";
import { ggufFile } from "../../gpu-backend/models/base.ts";
import { openGgufModel } from "../../gpu-backend/models/gguf/model.ts";
import type { ModelWeights } from "../../gpu-backend/runtime/model-weights.ts";
import { smoothed } from "../../gpu-backend/runtime/smoothing.ts";
import type { StepOutput, StepRunner } from "../../gpu-backend/runtime/step.ts";
import reference from "../fixtures/smollm2-reference.json" with { type: "json" };
import { embeddedBase } from "../support/embedded-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { grownPast, noPast, type StepRow, stepOf } from "../support/steps.ts";

const threads = 2;
/** The likeliest token in fp32 at each position of the reference's texts. */
let likeliest: number[] = [];
const gates = new Float32Array(0);
const bank = { gates: 0, a: new Float32Array(0), a0: new Float32Array(0), b: new Float32Array(0) };

/** The weights that are quantised to int8 when they are served. */
async function smoothedWeights({ config, weights }: ReturnType<typeof openGgufModel>): Promise<ModelWeights> {
  return smoothed(config, weights, (await readSmoothing(embeddedBase))!.magnitudes);
}

describe.each([
  // Tolerances. `text`, `mean`: nats of a text's cross-entropy and of ten texts' mean. `logprob`: nats of a log-probability. `gap`: tokens
  // are compared up to the first whose two likeliest are closer in nats. `agreement`: share of positions with fp32's likeliest token.
  { format: "fp32", text: 0.001, mean: 0.001, logprob: 0.001, gap: 0.05, agreement: 1 },
  { format: "exact", text: 0.01, mean: 0.005, logprob: null, gap: 0.1, agreement: 0.99 },
  { format: "int8", text: 0.03, mean: 0.015, logprob: null, gap: 0.3, agreement: 0.97 },
] as const)("SmolLM2 in $format", ({ format, ...limits }) => {
  let model: ReturnType<typeof openGgufModel>;
  let runner: StepRunner;
  beforeAll(async () => {
    model = openGgufModel(join(embeddedBase, ggufFile));
    const weights = format === "int8" ? await smoothedWeights(model) : model.weights;
    runner = await createStepRunner({ config: model.config, weights, bank, threads, format });
  }, 120_000);
  afterAll(async () => {
    await runner.release();
    model.file.close();
  });

  const rowOf = (tokenIds: number[]): StepRow => ({ tokenIds, gates, ...noPast(model.config) });

  /** Losses in nats of a text's tokens from the second on, and the likeliest token at each of these positions. */
  async function lossesOf(ids: number[]): Promise<{ losses: number[]; best: Int32Array }> {
    const input = stepOf(model.config, [rowOf(ids.slice(0, -1))]);
    input.headRows = Int32Array.from(input.tokenIds.keys());
    input.inverseTemperatures = new Float32Array(ids.length - 1).fill(1);
    input.targetIds = Int32Array.from(ids.slice(1));
    input.want = { scores: false, hidden: false };
    const { logSumExp, targetScores, topIds } = await runner.run(input);
    const ranked = topIds.length / logSumExp.length;
    const best = Int32Array.from(logSumExp, (_, i) => topIds[i * ranked]);
    return { losses: Array.from(logSumExp, (total, i) => total - targetScores[i]), best };
  }

  test("gives the next tokens' probabilities", async () => {
    let worst = 0;
    for (const { ids, best } of reference.next) {
      const { scores, logSumExp } = await runner.run(stepOf(model.config, [rowOf(ids)]));
      for (const [id, logprob] of best) worst = Math.max(worst, Math.abs(scores![id] - logSumExp[0] - logprob));
    }
    console.log(`${format}: greatest difference of log-probabilities ${worst}, limit ${limits.logprob ?? "none"}`);
    expect(worst).toBeLessThan(limits.logprob ?? Number.POSITIVE_INFINITY);
  }, 120_000);

  test("gives texts' cross-entropy and likeliest tokens", async () => {
    const differences: number[] = [];
    const found: number[] = [];
    for (const { ids, nats } of reference.texts) {
      const { losses, best } = await lossesOf(ids);
      found.push(...best);
      differences.push(losses.reduce((a, b) => a + b) / losses.length - nats);
    }
    const mean = differences.reduce((a, b) => a + b) / differences.length;
    const worst = Math.max(...differences.map(Math.abs));
    console.log(
      `${format}: cross-entropy differs by ${mean} (limit ${limits.mean}), a text's by ${worst} (${limits.text})`,
    );
    if (format === "fp32") likeliest = found;
    const agreement = found.filter((id, i) => id === likeliest[i]).length / likeliest.length;
    console.log(
      `${format}: the likeliest token is fp32's in ${agreement} of ${found.length} places, at least ${limits.agreement}`,
    );
    expect(agreement).toBeGreaterThanOrEqual(limits.agreement);
    expect(Math.abs(mean)).toBeLessThan(limits.mean);
    expect(worst).toBeLessThan(limits.text);
  }, 300_000);

  test.each(reference.greedy)(
    "continues prompt $# alike",
    async ({ ids, next, gaps }) => {
      const close = gaps.findIndex((gap) => gap < limits.gap);
      const certain = close < 0 ? next : next.slice(0, close);
      const found: number[] = [];
      let row = rowOf(ids);
      while (found.length < certain.length) {
        const input = stepOf(model.config, [row]);
        const output: StepOutput = await runner.run(input);
        found.push(output.topIds[0]);
        const past = grownPast(model.config, row, 0, input, output);
        row = { tokenIds: [output.topIds[0]], gates, past, pastLength: row.pastLength + row.tokenIds.length };
      }
      expect(found).toEqual(certain);
    },
    60_000,
  );
});
