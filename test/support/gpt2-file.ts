import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { tensorFrom, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { type Gpt2Sizes, gpt2Config, gpt2Json } from "./gpt2-config.ts";
import { type Gpt2Vocabulary, gpt2TokenizerJson } from "./gpt2-tokenizer.ts";

/** Matrices of layers are [in, out]. */
export function gpt2Shapes({ hiddenSize: D, vocabularySize: V, contextTokens, layers }: ModelConfig) {
  const shapes = new Map<string, number[]>();
  const add = (name: string, ...shape: number[]) => {
    shapes.set(`${name}.weight`, shape);
    shapes.set(`${name}.bias`, shape.slice(-1));
  };
  shapes.set("wte.weight", [V, D]);
  shapes.set("wpe.weight", [contextTokens, D]);
  add("ln_f", D);
  for (let l = 0; l < layers; l++) {
    add(`h.${l}.ln_1`, D);
    add(`h.${l}.attn.c_attn`, D, 3 * D);
    add(`h.${l}.attn.c_proj`, D, D);
    add(`h.${l}.ln_2`, D);
    add(`h.${l}.mlp.c_fc`, D, 4 * D);
    add(`h.${l}.mlp.c_proj`, 4 * D, D);
  }
  return shapes;
}

/** Writes config.json, tokenizer.json and model.safetensors. Returns the bytes of the last. `draw` gives an entry of a tensor. */
export async function writeGpt2(
  folder: string,
  sizes: Gpt2Sizes,
  vocabulary: Gpt2Vocabulary,
  draw: (name: string, index: number) => number,
): Promise<Uint8Array> {
  const tensors = [...gpt2Shapes(gpt2Config(sizes))].map(([name, shape]) => {
    const isGain = /ln_.*weight$/.test(name);
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => (isGain ? 1 : draw(name, i)));
    return [name, tensorFrom(values, shape)] as const;
  });
  const model = writeTensorFile(new Map(tensors));
  await writeFile(join(folder, "model.safetensors"), model);
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(gpt2TokenizerJson(vocabulary)));
  await writeFile(join(folder, "config.json"), gpt2Json(sizes));
  return model;
}
