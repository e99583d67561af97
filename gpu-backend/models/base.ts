/**
 * Reads a base model from a folder: `model.gguf`, whole or in parts, or Hugging Face's config.json beside model.safetensors.
 * Not here: the folder's artifacts (engine/artifacts.ts).
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { packTokenizer } from "../../shared/tokenizer/pack.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { isBlockType, type ModelWeights } from "../runtime/model-weights.ts";
import { openGgufModel } from "./gguf/model.ts";
import { existsInParts, openPartFiles, type PartFiles } from "./gguf/part-files.ts";
import { readModelConfig, readModelFolder } from "./safetensors/model-folder.ts";
import { readSampling, readTokenizerFiles } from "./tokenizer-files.ts";
import { tokenizerOfGguf } from "./tokenizer-source.ts";
import { type HashRecord, recordedHash } from "./weights-record.ts";

/** The name of GGUF weights in a model folder. */
export const ggufFile = "model.gguf";
const chunkBytes = 1 << 20;

export interface Base {
  config: ModelConfig;
  /** Weights of a GGUF file are read from it when their bytes are accessed, until `close`. */
  weights: ModelWeights;
  /** Name of the file with the weights. */
  weightsFile: string;
  /** SHA-256 of that file, or of its parts one after the other. */
  weightsHash: string;
  close(): void;
}

/** Opens a base. With `record`, GGUF weights are hashed only once. Throws an Error that names the file and the field or tensor at fault. */
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

/** The configuration alone, and whether all matrices are in GGUF's blocks. Reads no weights. */
export async function readBaseConfig(directory: string): Promise<{ model: ModelConfig; isInBlocks: boolean }> {
  const path = join(directory, ggufFile);
  if (!existsInParts(path)) return { model: await readModelConfig(directory), isInBlocks: false };
  const { config, weights, file } = openGgufModel(path);
  file.close();
  const isInBlocks = weights.values().every(({ dtype, shape }) => shape.length < 2 || isBlockType(dtype));
  return { model: config, isInBlocks };
}

/** What a base's own files say about its texts. */
export interface BaseText {
  /** The content of tokenizer.safetensors. */
  tokenizer: TensorFile;
  /** Ids that end a choice. */
  stopIds: number[];
  /** Jinja, if the GGUF file has it. */
  chatTemplate: string | undefined;
  /** Sampling that generation_config.json proposes for requests that name none. */
  sampling: Awaited<ReturnType<typeof readSampling>>;
}

/** Throws an Error of one line that names the file and the first entry at fault, or both vocabularies' sizes. */
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

/** SHA-256 of a GGUF file, or of its parts one after the other. */
export function hashOfGguf(path: string): string {
  const file = openPartFiles(path);
  try {
    return hashOfParts(file);
  } finally {
    file.close();
  }
}

/** SHA-256 of the open files, one after the other. A file that is replaced under its name meanwhile is not read. */
export function hashOfParts(file: PartFiles): string {
  const hash = createHash("sha256");
  for (let at = 0; at < file.bytes; at += chunkBytes) hash.update(file.read(at, Math.min(chunkBytes, file.bytes - at)));
  return hash.digest("hex");
}
