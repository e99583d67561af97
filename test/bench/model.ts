/**
 * The model that every contestant runs: GPT-2 124M's shape, seeded random weights. Speed does not depend on what the
 * weights say. What is made from it once is kept under .cache/bench.
 */
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { gpt2Weights as renamed } from "../../gpu-backend/models/safetensors/gpt2-weights.ts";
import { gpt2Config as configOf, type ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import type { ModelWeights } from "../../gpu-backend/runtime/model-weights.ts";
import type { Bank } from "../../gpu-backend/runtime/step.ts";
import { readTensorFile, type TensorFile, tensorFrom, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { gpt2Shapes } from "../support/gpt2-file.ts";
import { randomBank, seededRandom } from "../support/steps.ts";

export const gpt2Config = configOf({
  vocabularySize: 50_257,
  hiddenSize: 768,
  layers: 12,
  heads: 12,
  contextTokens: 1024,
  stopIds: [50_256],
});

/** The size of the bank that training makes by default. */
const bankRank = 64;
const bankBiases = 8;
/** Raise it when what is cached changes, so that nobody measures yesterday's file. */
const cacheVersion = 1;
const cacheFolder = join(import.meta.dirname, `../../.cache/bench/v${cacheVersion}`);

/** The path of a cached file; `make` writes it where it is missing. */
export async function cached(name: string, make: () => Uint8Array | Promise<Uint8Array>): Promise<string> {
  const path = join(cacheFolder, name);
  if (existsSync(path)) return path;
  await mkdir(dirname(path), { recursive: true });
  // Renamed when whole: a run that was stopped must not leave half a file.
  await writeFile(`${path}.${process.pid}`, await make());
  await rename(`${path}.${process.pid}`, path);
  return path;
}

export function gpt2WeightsFile(): Promise<string> {
  return cached("model.safetensors", () => writeTensorFile(randomGpt2(gpt2Config, seededRandom(124))));
}

/** By the names of its file. */
export async function gpt2Tensors(): Promise<TensorFile> {
  return readTensorFile(await readFile(await gpt2WeightsFile()));
}

export async function gpt2Weights(): Promise<ModelWeights> {
  return renamed(gpt2Config, await gpt2Tensors());
}

/** A file of weights spread as GPT-2's are before training; zero biases, gains of one. */
export function randomGpt2(config: ModelConfig, random: () => number): TensorFile {
  const weights: TensorFile = new Map();
  for (const [name, shape] of gpt2Shapes(config)) {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    const isGain = /ln_.*weight$/.test(name);
    // Uniform with a standard deviation of 0.02.
    const width = name.endsWith(".bias") ? 0 : 0.04 * Math.sqrt(3);
    for (let i = 0; i < values.length; i++) values[i] = isGain ? 1 : (random() - 0.5) * width;
    weights.set(name, tensorFrom(values, shape));
  }
  return weights;
}

export function gpt2Bank(): Bank {
  return randomBank(gpt2Config, bankRank, bankBiases, seededRandom(8));
}

/** Ids of prompts lie below it: a vocabulary that every model has. */
const commonVocabulary = 32_000;

/** Distinct prompts of `tokens` ids each, [batch][tokens], so that nobody can share a prefix. */
export function promptsOf(batch: number, tokens: number): number[][] {
  const random = seededRandom(1000 * tokens + batch);
  const draw = () => Math.floor(random() * commonVocabulary);
  return Array.from({ length: batch }, () => Array.from({ length: tokens }, draw));
}
