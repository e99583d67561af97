/** Which files of a repository or folder make a model that can be served. Pure: names in, names out. */
import { chatTemplateFile } from "../../training/chat-template-file.ts";

export const configFile = "config.json";
export const vocabularyFiles = ["vocab.json", "merges.txt"];
export const weightsFile = "model.safetensors";
const optionalFiles = ["tokenizer.json", "tokenizer_config.json", chatTemplateFile, "generation_config.json"];

/** Node reads no larger file in one piece, and an ONNX graph holds no more. */
export const largestWeightsBytes = 2 ** 31 - 1;

const otherWeights = [
  ["model.safetensors.index.json", "in several pieces"],
  ["pytorch_model.bin", "only as pytorch_model.bin, which can run code when it is read"],
  ["pytorch_model.bin.index.json", "only as pytorch_model.bin, in several pieces"],
  ["tf_model.h5", "only as tf_model.h5"],
  ["flax_model.msgpack", "only as flax_model.msgpack"],
];

/**
 * The files to take of those that are there, small ones first, the weights last.
 * Throws an Error of one line, `where` in it, that names what is missing.
 */
export function chooseFiles(present: ReadonlySet<string>, where: string): string[] {
  if (!present.has(configFile)) throw new Error(`${where} has no ${configFile}: it is no Transformers model`);
  if (!present.has(weightsFile)) {
    const other = otherWeights.find(([name]) => present.has(name));
    throw new Error(`${where} has its weights ${other?.[1] ?? "nowhere"}; one ${weightsFile} is needed`);
  }
  const missing = vocabularyFiles.filter((name) => !present.has(name));
  if (missing.length > 0) throw new Error(`${where} has no ${missing.join(" and no ")}: its tokenizer is not GPT-2's`);
  return [configFile, ...vocabularyFiles, ...optionalFiles.filter((name) => present.has(name)), weightsFile];
}

/** Throws an Error that names size and limit. */
export function checkWeightsSize(bytes: number, where: string): void {
  if (bytes <= largestWeightsBytes) return;
  throw new Error(`${where}: ${weightsFile} has ${bytes} bytes; at most ${largestWeightsBytes} can be served`);
}
