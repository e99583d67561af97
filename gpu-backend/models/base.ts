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
  /** A GGUF file's bytes are read on access, which is possible until `close`. */
  weights: ModelWeights;
  weightsFile: string;
  /** SHA-256 of `weightsFile`, or of its parts one after the other. */
  weightsHash: string;
  close(): void;
}

/** With `record`, weights of a GGUF file are hashed only once. */
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

export async function withBase<T>(directory: string, use: (base: Base) => T | Promise<T>): Promise<T> {
  const base = await openBase(directory);
  try {
    return await use(base);
  } finally {
    base.close();
  }
}

/** In the result, the token embedding [V, D] is a copy. */
export function headOf({ config, weights, weightsHash }: Base) {
  return { config, weightsHash, tokenEmbedding: floatsOf(weightOf(weights, "model.embed_tokens.weight")) };
}

/** `isInBlocks`: all matrices are stored in GGUF's blocks. */
export async function readBaseConfig(directory: string): Promise<{ model: ModelConfig; isInBlocks: boolean }> {
  const path = join(directory, ggufFile);
  if (!existsInParts(path)) return { model: await readModelConfig(directory), isInBlocks: false };
  const { config, weights, file } = openGgufModel(path);
  file.close();
  const isInBlocks = weights.values().every(({ dtype, shape }) => shape.length < 2 || isBlockType(dtype));
  return { model: config, isInBlocks };
}

export interface BaseText {
  tokenizer: TensorFile;
  stopIds: number[];
  /** Jinja template in a GGUF file. */
  chatTemplate: string | undefined;
  /** Defaults from generation_config.json. */
  sampling: Awaited<ReturnType<typeof readSampling>>;
}

/** Throws an Error that names the file, and the faulty entry or two unequal vocabulary sizes. */
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

/** Hashes the opened files, even if another file takes one of their names in the meantime. */
export function hashOfParts(file: PartFiles): string {
  const hash = createHash("sha256");
  for (let at = 0; at < file.bytes; at += chunkBytes) hash.update(file.read(at, Math.min(chunkBytes, file.bytes - at)));
  return hash.digest("hex");
}
