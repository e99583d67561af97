/** A tiny model of each family. Sizes differ where the family allows, so that swapped dimensions are noticed. */
import { type Artifacts, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { gpt2Config } from "./gpt2-config.ts";
import { randomWeights } from "./random-weights.ts";
import { seededRandom } from "./steps.ts";
import { tinyConfig } from "./tiny-model.ts";

const { vocabularySize, stopIds } = tinyConfig;
const biases = { queryKeyValue: false, attentionOutput: false, feedForward: false };

/** Three heads of queries share one head of keys and values, as in SmolLM2. */
export const tinyLlama: ModelConfig = {
  ...{
    vocabularySize,
    hiddenSize: 32,
    layers: 2,
    heads: 6,
    kvHeads: 2,
    headWidth: 16,
    contextTokens: 1024,
    stopIds,
  },
  ...{ feedForwardSize: 96, norm: "rms", normEpsilon: 1e-5, activation: "swiglu" },
  ...{ positions: { theta: 100_000, scaling: null }, queryKeyNorm: false, biases, tiedHead: true },
};

export const tinyFamilies: Record<string, ModelConfig> = {
  "GPT-2": gpt2Config({ vocabularySize, hiddenSize: 32, layers: 2, heads: 4, contextTokens: 128, stopIds }),
  "SmolLM2 135M": tinyLlama,
  "SmolLM2 1.7B": { ...tinyLlama, heads: 4, kvHeads: 4 },
  "Llama 3.2": {
    ...{ ...tinyLlama, heads: 8, kvHeads: 2, headWidth: 32 },
    positions: {
      theta: 500_000,
      // Within 24 positions some of the sixteen rotary frequencies turn often, some seldom and one in between.
      scaling: { factor: 32, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContextTokens: 24 },
    },
  },
  "Llama 3.1": { ...tinyLlama, tiedHead: false },
  Qwen2: { ...tinyLlama, heads: 7, kvHeads: 1, headWidth: 8, biases: { ...biases, queryKeyValue: true } },
  Qwen3: { ...tinyLlama, heads: 4, kvHeads: 2, headWidth: 48, queryKeyNorm: true, tiedHead: false },
  "a Llama with all biases": {
    ...tinyLlama,
    biases: { queryKeyValue: true, attentionOutput: true, feedForward: true },
  },
};

/** Reads a folder of `writeTinyModel`, with its GPT-2 or with a random Llama instead. */
export async function readTinyArtifacts(folder: string, family: "GPT-2" | "Llama"): Promise<Artifacts> {
  const artifacts = await readArtifacts(folder);
  if (family === "GPT-2") return artifacts;
  const weights = randomWeights(tinyLlama, seededRandom(7), 0.25);
  return { ...artifacts, model: { ...artifacts.model, config: tinyLlama, weights } };
}
