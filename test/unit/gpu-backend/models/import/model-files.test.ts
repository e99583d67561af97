import { expect, test } from "vitest";
import { chooseFiles } from "../../../../../gpu-backend/models/import/model-files.ts";

const needed = ["config.json", "tokenizer.json", "model.safetensors"];

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
