import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import type { ModelConfig } from "../../runtime/model-config.ts";
import { checkWeights, type ModelWeights, parametersOf } from "../../runtime/model-weights.ts";
import { configOf } from "./config.ts";
import { gpt2Weights, isGpt2 } from "./gpt2-weights.ts";

/** A parameter takes two bytes in model.safetensors, and Node reads at most 2 GiB of a file at once. */
const maxParameters = 2 ** 30 - 1;

export type ModelFolder = Awaited<ReturnType<typeof readModelFolder>>;

export async function readModelFolder(directory: string) {
  const config = await readModelConfig(directory);
  const file = join(directory, "model.safetensors");
  const bytes = await readFile(file);
  const tensors = readTensorFile(bytes, file);
  const weights: ModelWeights = isGpt2(tensors) ? gpt2Weights(config, tensors, file) : tensors;
  checkWeights(file, config, weights);
  return { config, weights, weightsHash: createHash("sha256").update(bytes).digest("hex") };
}

export async function readModelConfig(directory: string): Promise<ModelConfig> {
  const file = join(directory, "config.json");
  const config = configOf(await readFile(file, "utf8"), file);
  const parameters = parametersOf(config);
  if (parameters <= maxParameters) return config;
  throw new Error(`${file}: its sizes make ${parameters} parameters, the maximum is ${maxParameters}`);
}
