import { describe, expect, test } from "vitest";
import { checkWeightsSize, chooseFiles } from "../../../../../gpu-backend/models/import/model-files.ts";

const gpt2 = ["config.json", "vocab.json", "merges.txt", "model.safetensors"];

describe("chooseFiles", () => {
  test("takes what serving and training need, and the weights last", () => {
    const others = ["README.md", "tokenizer.json", "pytorch_model.bin", "onnx/model.onnx", "64.tflite"];
    expect(chooseFiles(new Set([...others, ...gpt2]), "x")).toEqual([
      ...["config.json", "vocab.json", "merges.txt", "tokenizer.json", "model.safetensors"],
    ]);
  });

  test.each<[string[], RegExp]>([
    [["pytorch_model.bin"], /^x has its weights only as pytorch_model\.bin/],
    [["model.safetensors.index.json", "pytorch_model.bin"], /in several pieces/],
    [["tf_model.h5"], /only as tf_model\.h5/],
    [[], /nowhere/],
  ])("refuses weights in %j by name", (weights, message) => {
    expect(() => chooseFiles(new Set([...gpt2.slice(0, 3), ...weights]), "x")).toThrow(message);
  });

  test("names every missing file of the tokenizer", () => {
    expect(() => chooseFiles(new Set(["config.json", "model.safetensors", "vocab.txt"]), "x")).toThrow(
      /^x has no vocab\.json and no merges\.txt/,
    );
  });
});

test("checkWeightsSize names size and limit", () => {
  checkWeightsSize(2 ** 31 - 1, "x");
  expect(() => checkWeightsSize(2 ** 31, "x")).toThrow(/2147483648 bytes; at most 2147483647/);
});
