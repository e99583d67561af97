/** Which files of a repository or folder make a model that can be served. Pure: names in, names out. */
import { chatTemplateFile } from "../../training/chat-template-file.ts";
import { tokenizerJsonFile } from "../tokenizer-files.ts";
import { peftConfigFile } from "./peft.ts";

export const configFile = "config.json";
export const weightsFile = "model.safetensors";
const optionalFiles = ["tokenizer_config.json", chatTemplateFile, "generation_config.json"];

const MiB = 2 ** 20;
export const maxConfigBytes = MiB;
/** Bytes of each file at most: several times what a vocabulary of 150,000 takes. */
const maxFileBytes: Record<string, number> = {
  [configFile]: maxConfigBytes,
  [peftConfigFile]: maxConfigBytes,
  [tokenizerJsonFile]: 32 * MiB,
  "tokenizer_config.json": 4 * MiB,
  [chatTemplateFile]: MiB,
  "generation_config.json": MiB,
  /** Node reads no larger file in one piece, and an ONNX graph holds no more. */
  [weightsFile]: 2 ** 31 - 1,
};

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
  if (!present.has(tokenizerJsonFile)) throw new Error(`${where} has no ${tokenizerJsonFile}`);
  return [configFile, tokenizerJsonFile, ...optionalFiles.filter((name) => present.has(name)), weightsFile];
}

/** Throws an Error that names the file, its size and the limit. */
export function checkFileSize(name: string, bytes: number, where: string): void {
  const max = maxFileBytes[name];
  if (bytes > max) throw new Error(`${where}: ${name} has ${bytes} bytes; at most ${max} can be served`);
}

/** Throws an Error with both figures where the weights are too short for the parameters, of two bytes each at least. */
export function checkWeightsHold(parameters: number, bytes: number, where: string): void {
  if (bytes >= 2 * parameters) return;
  throw new Error(
    `${where}: ${weightsFile} has ${bytes} bytes; the ${parameters} parameters of ${configFile} take more`,
  );
}
