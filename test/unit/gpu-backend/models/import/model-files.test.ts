import { expect, test } from "vitest";
import { checkFileSize, checkWeightsHold, chooseFiles } from "../../../../../gpu-backend/models/import/model-files.ts";

const needed = ["config.json", "tokenizer.json", "model.safetensors"];

test("an import takes the files that serving and training need, the weights last", () => {
  const others = ["README.md", "vocab.json", "pytorch_model.bin", "onnx/model.onnx", "64.tflite"];
  expect(chooseFiles(new Set([...others, ...needed]), "x")).toEqual(needed);
});

const [config, tokenizer, weights] = needed;
const peft = ["adapter_config.json", "adapter_model.safetensors", tokenizer];
test.each<[string[], RegExp]>([
  [[config, tokenizer, "pytorch_model.bin"], /^x has its weights only as pytorch_model\.bin/],
  [[config, tokenizer, "model.safetensors.index.json", "pytorch_model.bin"], /in several pieces/],
  [[config, tokenizer, "tf_model.h5"], /only as tf_model\.h5/],
  [[config, tokenizer], /nowhere/],
  [[config, weights, "vocab.json", "merges.txt"], /^x has no tokenizer\.json$/],
  [peft, /^x has no config\.json: it is a PEFT adapter; merge it/],
])("refuses a repository of %j by what it lacks", (names, message) => {
  expect(() => chooseFiles(new Set(names), "x")).toThrow(message);
});

test.each([
  ["model.safetensors", 2 ** 31 - 1],
  ["config.json", 2 ** 20],
  ["tokenizer.json", 2 ** 25],
])("checkFileSize names size and limit of %s", (name, most) => {
  checkFileSize(name, most, "x");
  expect(() => checkFileSize(name, most + 1, "x")).toThrow(`x: ${name} has ${most + 1} bytes; at most ${most}`);
});

test("every file that may be taken has a limit", () => {
  const optional = ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"];
  for (const name of chooseFiles(new Set([...needed, ...optional]), "x")) {
    expect(() => checkFileSize(name, Number.MAX_SAFE_INTEGER, "x")).toThrow(name);
  }
});

test("checkWeightsHold names both figures", () => {
  checkWeightsHold(100, 200, "x");
  expect(() => checkWeightsHold(100, 199, "x")).toThrow(/199 bytes; the 100 parameters/);
});
