/** Reads a base model for training: its tokenizer, trunk and tied head. */
import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type Manifest, manifestFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { readSmoothing } from "../engine/smoothing-file.ts";
import { nullIfMissing } from "../files.ts";
import { openBase, readBaseText } from "../models/base.ts";
import { floatsOf, weightOf } from "../runtime/model-weights.ts";
import type { WeightFormat } from "../runtime/products.ts";
import { smoothed } from "../runtime/smoothing.ts";
import type { ModelShape } from "../runtime/step.ts";
import { createTrunkRunner, type TrunkRunner } from "../runtime/trunk-runner.ts";
import { readChatTemplate } from "./chat-template-file.ts";
import { servedModel } from "./publish.ts";

export interface TrainingBase {
  name: string;
  /** The manifest's `model` without the hash of the weights. */
  served: Omit<Manifest["model"], "weights">;
  /** The manifest's rule of memories. It was fitted to the base, so new artifacts keep it. */
  memory?: Manifest["memory"];
  config: ModelShape;
  weightsHash: string;
  tokenEmbedding: Float32Array; // [V, D], the tied head
  tokenizer: Pick<Tokenizer, "encode" | "pieceOf">;
  /** Content of tokenizer.safetensors. */
  tokenizerFile: TensorFile;
  /** Default: fp32. int8 weights are smoothed, as for serving. */
  openTrunk(threads: number, format?: WeightFormat): Promise<TrunkRunner>;
}

/** The parts of a base's artifacts that new artifacts keep. */
async function formerlyServed(
  directory: string,
): Promise<Pick<Manifest, "memory"> & { model: Partial<Manifest["model"]> }> {
  const json = await readFile(join(directory, "artifacts", manifestFile), "utf8").catch(nullIfMissing);
  if (json === null) return { model: {} };
  const { model, memory } = parseManifest(json);
  const { name, servedAs, contextTokens, sampling } = model;
  return { model: { name, servedAs, contextTokens, ...(sampling && { sampling }) }, memory };
}

/** Throws an Error that names the faulty file. */
export async function readBase(directory: string): Promise<TrainingBase> {
  const { config, weightsHash, tokenEmbedding } = await readHead(directory);
  const text = await readBaseText(directory, config);
  const name = basename(resolve(directory));
  const former = await formerlyServed(directory);
  return {
    name,
    memory: former.memory,
    served: {
      ...servedModel(name, config, text),
      ...former.model,
      chatTemplate: await readChatTemplate(directory, text),
    },
    config,
    weightsHash,
    tokenEmbedding,
    tokenizer: Tokenizer.fromTensors(text.tokenizer),
    tokenizerFile: text.tokenizer,
    openTrunk: (threads, format = "fp32") => openTrunk(directory, weightsHash, { threads, format }),
  };
}

async function readHead(directory: string) {
  const { config, weights, weightsHash, close } = await openBase(directory);
  try {
    return { config, weightsHash, tokenEmbedding: floatsOf(weightOf(weights, "model.embed_tokens.weight")) };
  } finally {
    close();
  }
}

/** Opens the weights only now, because a resumed training may have its hidden states already. Throws an Error if the weights changed. */
async function openTrunk(
  directory: string,
  wantedHash: string,
  options: { threads: number; format: WeightFormat },
): Promise<TrunkRunner> {
  const { config, weights, weightsFile, weightsHash, close } = await openBase(directory);
  try {
    if (weightsHash !== wantedHash) {
      throw new Error(`${join(directory, weightsFile)} changed: its SHA-256 is ${weightsHash}, it was ${wantedHash}`);
    }
    const smoothing = options.format === "int8" ? await readSmoothing(directory) : null;
    const stored = smoothing ? smoothed(config, weights, smoothing.magnitudes) : weights;
    return await createTrunkRunner({ config, weights: stored, ...options });
  } finally {
    close();
  }
}
