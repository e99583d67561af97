import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { configOf } from "../../../../../gpu-backend/models/safetensors/config.ts";
import { readModelFolder } from "../../../../../gpu-backend/models/safetensors/model-folder.ts";
import { weightShapes } from "../../../../../gpu-backend/runtime/model-weights.ts";
import { setLimits } from "../../../../../shared/artifacts/limits.ts";
import { type TensorFile, tensorFrom, writeTensorFile } from "../../../../../shared/artifacts/tensor-file.ts";
import { gpt2Config, gpt2Json } from "../../../../support/gpt2-config.ts";
import { gpt2Shapes } from "../../../../support/gpt2-file.ts";
import { temporaryFolder } from "../../../../support/temporary-folder.ts";

const folder = temporaryFolder();
const dimensions = { vocabularySize: 11, hiddenSize: 4, layers: 1, heads: 2, contextTokens: 8, stopIds: [10] };
const config: object = JSON.parse(gpt2Json(dimensions));

async function write(
  settings: object,
  change: (weights: TensorFile) => void = () => {},
  shapes: Iterable<[string, readonly number[]]> = gpt2Shapes(gpt2Config(dimensions)),
): Promise<void> {
  const weights: TensorFile = new Map();
  for (const [name, dims] of shapes) {
    weights.set(name, tensorFrom(new Float32Array(dims.reduce((a, b) => a * b)), [...dims]));
  }
  change(weights);
  await writeFile(join(folder, "config.json"), JSON.stringify(settings));
  await writeFile(join(folder, "model.safetensors"), writeTensorFile(weights));
}

const { layers, hiddenSize, heads, contextTokens, vocabulary } = setLimits;
/** Matches the refusal of a `field` that is one above its limit `most`. */
const beyond = (field: string, most: number) => new RegExp(`${field} is ${most + 1}: .*<=${most}$`);

test.each(["", "transformer."])("reads config and tensors named with the prefix %j", async (prefix) => {
  const shapes = [...gpt2Shapes(gpt2Config(dimensions))];
  await write(config, undefined, new Map(shapes.map(([name, dims]) => [prefix + name, dims])));
  const model = await readModelFolder(folder);
  expect(model.config).toMatchObject(dimensions);
  expect(model.weights.get("model.embed_tokens.weight")?.shape).toEqual([11, 4]);
  expect(model.weightsHash).toMatch(/^[0-9a-f]{64}$/);
});

test("reads a Llama, whose tensors keep their names", async () => {
  const llama = {
    ...{ model_type: "llama", vocab_size: 11, hidden_size: 4, intermediate_size: 6, num_hidden_layers: 1 },
    ...{ num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 8, eos_token_id: [10, 9] },
  };
  const shape = configOf(JSON.stringify(llama), "config.json");
  await write(llama, undefined, weightShapes(shape));
  const model = await readModelFolder(folder);
  expect(model.config).toEqual(shape);
  expect(model.weights.get("lm_head.weight")?.shape).toEqual([11, 4]);
  await writeFile(join(folder, "config.json"), JSON.stringify({ ...llama, num_key_value_heads: 2 }));
  await expect(readModelFolder(folder)).rejects.toThrow(/layers\.0\.self_attn\.k_proj\.weight is \[2,4\], not \[4,4\]/);
});

test.each([
  ["another architecture", { model_type: "bloom" }, /model_type is "bloom"; supported are gpt2, llama, qwen2, qwen3$/],
  ["another head", { architectures: ["GPT2ForSequenceClassification"] }, /architectures is .*only GPT2LMHeadModel/],
  ["cross-attention", { add_cross_attention: true }, /add_cross_attention is true/],
  ["a missing size", { n_embd: undefined }, /n_embd is missing/],
  ["another activation", { activation_function: "relu" }, /activation_function/],
  ["attention scaled by layer", { scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx/],
  ["an untied head", { tie_word_embeddings: false }, /tie_word_embeddings/],
  ["another inner width", { n_inner: 12 }, /n_inner.*12.*16/],
  ["layers beyond the limit of a set", { n_layer: layers + 1 }, beyond("n_layer", layers)],
  ["a width beyond the limit of a set", { n_embd: hiddenSize + 1 }, beyond("n_embd", hiddenSize)],
  ["heads beyond the limit of a set", { n_head: heads + 1 }, beyond("n_head", heads)],
  ["heads that do not divide the width", { n_head: 3 }, /n_head is 3, .*n_embd, 4/],
  ["more heads than the width", { n_head: 8 }, /n_head is 8, .*n_embd, 4/],
  ["positions beyond the limit of a set", { n_positions: contextTokens + 1 }, beyond("n_positions", contextTokens)],
  ["a vocabulary beyond the limit of a set", { vocab_size: vocabulary + 1 }, beyond("vocab_size", vocabulary)],
  ["a fraction of a layer", { n_layer: 1.5 }, /n_layer is 1.5/],
  ["a size in words", { n_layer: "12" }, /n_layer is "12"/],
  ["more parameters than a file holds", { n_layer: 256, n_embd: 16384 }, /824\d{9} parameters, .*1073741823/],
  ["an epsilon that float32 rounds to 0", { layer_norm_epsilon: 1e-60 }, /layer_norm_epsilon is 1e-60: .*1e-12/],
  ["an epsilon that drowns the values", { layer_norm_epsilon: 1e30 }, /layer_norm_epsilon is 1e\+30: .*0\.1/],
  ["an end of text outside the vocabulary", { eos_token_id: 11 }, /eos_token_id is 11, .*11/],
])("refuses %s by the name of the field", async (_, change, message) => {
  await write({ ...config, ...change });
  const error = await readModelFolder(folder).catch((thrown) => thrown);
  expect(error.message).toMatch(message);
  expect(error.message).not.toContain("\n");
});

test("ignores what a checkpoint holds besides: attention masks, whatever their dtype", async () => {
  await write(config, (weights) => {
    weights.set("h.0.attn.bias", { dtype: "BOOL", shape: [1, 1, 8, 8], bytes: new Uint8Array(64) });
    weights.set("h.0.attn.masked_bias", tensorFrom(Float32Array.of(-1e4), []));
  });
  expect((await readModelFolder(folder)).weights.size).toBeGreaterThan(0);
});

test("refuses weights that are no floats, by name", async () => {
  await write(config, (weights) => weights.set("ln_f.weight", tensorFrom(new Int32Array(4), [4])));
  await expect(readModelFolder(folder)).rejects.toThrow(/ln_f\.weight is I32/);
});

test("names a missing tensor, and both shapes of a wrong one", async () => {
  await write(config, (weights) => weights.delete("h.0.mlp.c_fc.bias"));
  await expect(readModelFolder(folder)).rejects.toThrow(/h\.0\.mlp\.c_fc\.bias/);
  await write(config, (weights) => weights.set("wpe.weight", tensorFrom(new Float32Array(16), [4, 4])));
  await expect(readModelFolder(folder)).rejects.toThrow(/model\.embed_positions\.weight is \[4,4\], not \[8,4\]/);
});
