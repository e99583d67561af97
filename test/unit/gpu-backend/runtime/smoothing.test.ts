import { expect, test } from "vitest";
import { measureMagnitudes } from "../../../../gpu-backend/runtime/calibration.ts";
import type { ModelConfig } from "../../../../gpu-backend/runtime/model-config.ts";
import { floatsOf, type ModelWeights, weightOf } from "../../../../gpu-backend/runtime/model-weights.ts";
import { smoothed, smoothedInputs } from "../../../../gpu-backend/runtime/smoothing.ts";
import { createTrunkRunner } from "../../../../gpu-backend/runtime/trunk-runner.ts";
import { tensorFrom } from "../../../../shared/artifacts/tensor-file.ts";
import { oracleHidden } from "../../../support/oracle.ts";
import { randomWeights } from "../../../support/random-weights.ts";
import { maxDifference, seededRandom } from "../../../support/steps.ts";
import { tinyLlama } from "../../../support/tiny-families.ts";

const llama: ModelConfig = {
  ...{ ...tinyLlama, vocabularySize: 50, heads: 4, kvHeads: 2, headWidth: 8, contextTokens: 64, stopIds: [0] },
  ...{ feedForwardSize: 48, positions: { theta: 10_000, scaling: null } },
};
const qwen2: ModelConfig = { ...llama, biases: { ...llama.biases, queryKeyValue: true } };
const gpt2: ModelConfig = {
  ...{ ...llama, kvHeads: 4, norm: "layer", activation: "gelu", positions: "learned" },
  biases: { queryKeyValue: true, attentionOutput: true, feedForward: true },
};
const seed = 31;
const ids = Array.from({ length: 40 }, (_, i) => (i * 17) % 50);

/** Random weights whose norms make one channel in eight 50 times as large as the others. */
function withOutliers(config: ModelConfig): ModelWeights {
  const weights = new Map(randomWeights(config, seededRandom(seed), 0.1));
  for (const [name, weight] of weights) {
    if (!/layernorm\.weight$/.test(name)) continue;
    const gains = floatsOf(weight).map((gain, i) => (i % 8 === 3 ? 50 * gain : gain));
    weights.set(name, tensorFrom(gains, [gains.length]));
  }
  return weights;
}

test.each([
  ["Llama", llama],
  ["Qwen2", qwen2],
  ["GPT-2", gpt2],
])("a smoothed %s computes the same, with ranges of its inputs that are closer together", async (_, config) => {
  const weights = withOutliers(config);
  const options = { config, threads: 1 };
  const magnitudes = await measureMagnitudes({ ...options, weights }, ids);
  const even = smoothed(config, weights, magnitudes);
  const exact = oracleHidden(config, weights, ids).flatMap((row) => [...row]);
  const found = oracleHidden(config, even, ids).flatMap((row) => [...row]);
  const error = maxDifference(found, exact);
  const after = await measureMagnitudes({ ...options, weights: even }, ids);
  const name = "model.layers.0.self_attn.q_proj";
  const spread = (of: typeof magnitudes) => {
    const values = floatsOf(of.get(name)!);
    return Math.max(...values) / Math.min(...values);
  };
  console.log(`greatest difference ${error}; spread ${spread(magnitudes)} before, ${spread(after)} after`);
  expect(error).toBeLessThan(1e-4);
  expect(spread(after)).toBeLessThan(spread(magnitudes) / 4);
});

test("magnitudes are taken over all texts into which the ids are cut", async () => {
  const weights = randomWeights(llama, seededRandom(seed), 0.1);
  const long = { ...llama, contextTokens: 16 };
  const all = await measureMagnitudes({ config: long, weights, threads: 1 }, ids.slice(0, 32));
  const parts = [0, 16].map((start) => ids.slice(start, start + 16));
  const each = await Promise.all(parts.map((part) => measureMagnitudes({ config: long, weights, threads: 1 }, part)));
  expect([...all.keys()]).toEqual([...smoothedInputs(long, weights).keys()]);
  for (const [name, tensor] of all) {
    const [a, b] = each.map((one) => floatsOf(weightOf(one, name)));
    const wanted = a.map((value, i) => Math.hypot(value, b[i]) / Math.SQRT2);
    const error = maxDifference(floatsOf(tensor), wanted);
    expect(error, name).toBeLessThan(1e-6 * Math.max(...floatsOf(tensor)));
  }
});

test("refuses magnitudes of another model, by the product's name", async () => {
  const weights = randomWeights(llama, seededRandom(seed));
  const magnitudes = await measureMagnitudes({ config: llama, weights, threads: 1 }, ids);
  const name = "model.layers.1.mlp.down_proj";
  expect(() => smoothed(llama, weights, new Map([...magnitudes].filter(([key]) => key !== name)))).toThrow(name);
  const short = new Map([...magnitudes, [name, tensorFrom(new Float32Array(4), [4])] as const]);
  expect(() => smoothed(llama, weights, short)).toThrow(`smoothing: ${name} is F32 [4], expected F32 [48]`);
});

test("smoothing reduces what int8 loses where channels differ", async () => {
  const weights = withOutliers(llama);
  const magnitudes = await measureMagnitudes({ config: llama, weights, threads: 1 }, ids);
  const errors: number[] = [];
  const hiddenOf = async (of: ModelWeights, format: "fp32" | "int8") => {
    const runner = await createTrunkRunner({ config: llama, weights: of, threads: 1, format });
    const hidden = await runner.hidden(Int32Array.from(ids), 1, ids.length);
    await runner.release();
    return hidden;
  };
  const exact = await hiddenOf(weights, "fp32");
  for (const of of [weights, smoothed(llama, weights, magnitudes)]) {
    const hidden = await hiddenOf(of, "int8");
    errors.push(Math.hypot(...hidden.map((value, i) => value - exact[i])) / Math.hypot(...exact));
  }
  console.log(`relative error ${errors[0]} as it is, ${errors[1]} smoothed`);
  expect(errors[1]).toBeLessThan(0.8 * errors[0]);
});
