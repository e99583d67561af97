/** Reads a base model from a folder: `model.gguf`, whole or in parts, or Hugging Face's config.json and model.safetensors. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { packTokenizer } from "../../shared/tokenizer/pack.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { floatsOf, isBlockType, type ModelWeights, weightOf } from "../runtime/model-weights.ts";
import { openGgufModel } from "./gguf/model.ts";
import { existsInParts, openPartFiles, type PartFiles } from "./gguf/part-files.ts";
import { readModelConfig, readModelFolder } from "./safetensors/model-folder.ts";
import { readSampling, readTokenizerFiles } from "./tokenizer-files.ts";
import { tokenizerOfGguf } from "./tokenizer-source.ts";
import { type HashRecord, recordedHash } from "./weights-record.ts";

export const ggufFile = "model.gguf";
const chunkBytes = 1 << 20;

export interface Base {
  config: ModelConfig;
  /** Weights. A GGUF file is read when their bytes are accessed, which is possible until `close`. */
  weights: ModelWeights;
  weightsFile: string;
  /** SHA-256 of `weightsFile`, or of its parts one after the other. */
  weightsHash: string;
  close(): void;
}

/** Opens a base. With `record`, GGUF weights are hashed only once. Throws an Error that names the file and the faulty field or tensor. */
export async function openBase(directory: string, record?: HashRecord): Promise<Base> {
  const path = join(directory, ggufFile);
  if (!existsInParts(path))
    return { ...(await readModelFolder(directory)), weightsFile: "model.safetensors", close: () => {} };
  const { config, weights, file } = openGgufModel(path);
  try {
    const weightsHash = record ? await recordedHash(file, record, hashOfParts) : hashOfParts(file);
    return { config, weights, weightsFile: ggufFile, weightsHash, close: file.close };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Opens a base without a hash record, calls `use` with it, and closes it afterwards. */
export async function withBase<T>(directory: string, use: (base: Base) => T | Promise<T>): Promise<T> {
  const base = await openBase(directory);
  try {
    return await use(base);
  } finally {
    base.close();
  }
}

/** A copy of the token embedding, [V, D], which is also the head if that is tied; with the configuration and the hash of its model. */
export function headOf({ config, weights, weightsHash }: Base) {
  return { config, weightsHash, tokenEmbedding: floatsOf(weightOf(weights, "model.embed_tokens.weight")) };
}

/** Reads a base's configuration, but no weights. `isInBlocks` in the result is true if all matrices are stored in GGUF's blocks. */
export async function readBaseConfig(directory: string): Promise<{ model: ModelConfig; isInBlocks: boolean }> {
  const path = join(directory, ggufFile);
  if (!existsInParts(path)) return { model: await readModelConfig(directory), isInBlocks: false };
  const { config, weights, file } = openGgufModel(path);
  file.close();
  const isInBlocks = weights.values().every(({ dtype, shape }) => shape.length < 2 || isBlockType(dtype));
  return { model: config, isInBlocks };
}

/** Tokenizer and settings from the base's own files. */
export interface BaseText {
  tokenizer: TensorFile;
  stopIds: number[];
  /** The Jinja template in a GGUF file. */
  chatTemplate: string | undefined;
  /** Sampling parameters that generation_config.json proposes. Each applies to requests that do not set it. */
  sampling: Awaited<ReturnType<typeof readSampling>>;
}

/** Throws an Error of one line. It names the file and the first faulty entry, or the sizes of two vocabularies that should be equal. */
export async function readBaseText(directory: string, config: ModelConfig): Promise<BaseText> {
  const path = join(directory, ggufFile);
  const sampling = await readSampling(directory);
  if (existsInParts(path)) return { ...ggufText(path), sampling };
  return { ...(await readTokenizerFiles(directory, config)), chatTemplate: undefined, sampling };
}

function ggufText(path: string): Omit<BaseText, "sampling"> {
  const { header, file } = openGgufModel(path);
  try {
    const { vocabulary, stopIds } = tokenizerOfGguf(header);
    const chatTemplate = header.text("tokenizer.chat_template") ?? undefined;
    return { tokenizer: packTokenizer(vocabulary), stopIds, chatTemplate };
  } catch (error) {
    throw new Error(`${path}: ${(error as Error).message}`, { cause: error });
  } finally {
    file.close();
  }
}

export function hashOfGguf(path: string): string {
  const file = openPartFiles(path);
  try {
    return hashOfParts(file);
  } finally {
    file.close();
  }
}

/** SHA-256 of the open files, one after the other, even if another file takes the name of one of them meanwhile. */
export function hashOfParts(file: PartFiles): string {
  const hash = createHash("sha256");
  for (let at = 0; at < file.bytes; at += chunkBytes) hash.update(file.read(at, Math.min(chunkBytes, file.bytes - at)));
  return hash.digest("hex");
}
