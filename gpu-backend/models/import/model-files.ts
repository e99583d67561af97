import { chatTemplateFile } from "../../training/chat-template-file.ts";
import { tokenizerJsonFile } from "../tokenizer-files.ts";

export const configFile = "config.json";
export const weightsFile = "model.safetensors";
const optionalFiles = ["tokenizer_config.json", chatTemplateFile, "generation_config.json"];

const MiB = 2 ** 20;
/** Bytes of each file: several times the size for a vocabulary of 150,000 entries. */
const maxFileBytes: Record<string, number> = {
  [configFile]: MiB,
  [tokenizerJsonFile]: 32 * MiB,
  "tokenizer_config.json": 4 * MiB,
  [chatTemplateFile]: MiB,
  "generation_config.json": MiB,
  /** The maximum that Node reads at once and that an ONNX graph can hold. */
  [weightsFile]: 2 ** 31 - 1,
};

const otherWeights = [
  ["model.safetensors.index.json", "in several pieces"],
  ["pytorch_model.bin", "only as pytorch_model.bin, which can run code when it is read"],
  ["pytorch_model.bin.index.json", "only as pytorch_model.bin, in several pieces"],
  ["tf_model.h5", "only as tf_model.h5"],
  ["flax_model.msgpack", "only as flax_model.msgpack"],
];

/** Puts the weights last. Throws an Error that names the missing file. */
export function chooseFiles(present: ReadonlySet<string>, where: string): string[] {
  if (!present.has(configFile)) {
    const why = present.has("adapter_config.json")
      ? "it is a PEFT adapter; merge it (merge_and_unload, save_pretrained) and import the model that comes out"
      : "it is no Transformers model";
    throw new Error(`${where} has no ${configFile}: ${why}`);
  }
  if (!present.has(weightsFile)) {
    const other = otherWeights.find(([name]) => present.has(name));
    throw new Error(`${where} has its weights ${other?.[1] ?? "nowhere"}; one ${weightsFile} is needed`);
  }
  if (!present.has(tokenizerJsonFile)) throw new Error(`${where} has no ${tokenizerJsonFile}`);
  return [configFile, tokenizerJsonFile, ...optionalFiles.filter((name) => present.has(name)), weightsFile];
}

export function checkFileSize(name: string, bytes: number, where: string): void {
  const max = maxFileBytes[name];
  if (bytes > max) throw new Error(`${where}: ${name} has ${bytes} bytes; at most ${max} can be served`);
}

/** A parameter takes at least two bytes. */
export function checkWeightsHold(parameters: number, bytes: number, where: string): void {
  if (bytes >= 2 * parameters) return;
  throw new Error(
    `${where}: ${weightsFile} has ${bytes} bytes; the ${parameters} parameters of ${configFile} take more`,
  );
}
