import { expect, test } from "vitest";
import { configOf } from "../../../../../gpu-backend/models/safetensors/config.ts";

/** The config.json of SmolLM2-135M-Instruct. */
const smolLm2 = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 49152, eos_token_id: 2 },
  ...{ hidden_size: 576, intermediate_size: 1536, max_position_embeddings: 8192, num_hidden_layers: 30 },
  ...{ num_attention_heads: 9, num_key_value_heads: 3, attention_bias: false, mlp_bias: false, hidden_act: "silu" },
  ...{ rms_norm_eps: 1e-5, rope_scaling: null, rope_theta: 100000, tie_word_embeddings: true, pretraining_tp: 1 },
};
const llama3Range = { factor: 32, high_freq_factor: 4, low_freq_factor: 1, original_max_position_embeddings: 8192 };
const llama3Scaling = { ...llama3Range, rope_type: "llama3" };
const scaling = { factor: 32, highFrequencyFactor: 4, lowFrequencyFactor: 1, originalContextTokens: 8192 };
const positions = { theta: 500000, scaling };
const llama32 = { rope_theta: 500000, rope_scaling: llama3Scaling, head_dim: 64, eos_token_id: [1, 8, 9] };
const noRange = { ...llama3Scaling, low_freq_factor: 4 };
const qwen2 = { model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] };
const qwen3 = { model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], layer_types: ["full_attention"] };
const linear = ["full_attention", "linear_attention"];
const noBiases = { queryKeyValue: false, attentionOutput: false, feedForward: false };
const allBiases = { queryKeyValue: true, attentionOutput: true, feedForward: true };

const read = (change: object) => configOf(JSON.stringify({ ...smolLm2, ...change }), "config.json");

test("reads SmolLM2", () => {
  expect(read({})).toEqual({
    ...{ vocabularySize: 49152, hiddenSize: 576, layers: 30, heads: 9, kvHeads: 3, headWidth: 64 },
    ...{ contextTokens: 8192, stopIds: [2], feedForwardSize: 1536, norm: "rms", normEpsilon: 1e-5 },
    ...{ activation: "swiglu", positions: { theta: 100000, scaling: null }, queryKeyNorm: false },
    ...{ biases: noBiases, tiedHead: true },
  });
});

test.each([
  ["Llama 3.2: scaled rotary positions, several stop ids", llama32, { positions, stopIds: [1, 8, 9] }],
  ["newer fields", { rope_theta: undefined, rope_parameters: { ...llama3Scaling, rope_theta: 500000 } }, { positions }],
  ["an older type, no scaling", { rope_scaling: { type: "default" } }, { positions: { theta: 100000, scaling: null } }],
  ["as many heads of keys as of queries", { num_key_value_heads: undefined }, { kvHeads: 9 }],
  ["a head of its own", { tie_word_embeddings: undefined }, { tiedHead: false }],
  ["all biases", { attention_bias: true, mlp_bias: true }, { biases: allBiases }],
  ["Qwen2: biases before attention", qwen2, { biases: { ...noBiases, queryKeyValue: true }, queryKeyNorm: false }],
  ["an unused window", { ...qwen2, use_sliding_window: false, sliding_window: 32768 }, { queryKeyNorm: false }],
  ["Qwen3: norms of queries and keys, heads of 128", qwen3, { queryKeyNorm: true, headWidth: 128, biases: noBiases }],
])("reads %s", (_, change, expected) => {
  expect(read(change)).toMatchObject(expected);
});

test.each([
  ["a mixture", { model_type: "qwen3_moe" }, /model_type is "qwen3_moe", a mixture of experts; supported are gpt2, /],
  ["hybrid attention", { model_type: "qwen3_next" }, /model_type is "qwen3_next", of hybrid attention/],
  ["sliding attention", { model_type: "gemma2" }, /model_type is "gemma2", of sliding attention/],
  ["no type", { model_type: undefined }, /model_type is undefined/],
  ["a sliding window", { use_sliding_window: true }, /use_sliding_window is true: sliding attention/],
  ["a linear layer", { layer_types: linear }, /layer_types\.1 is "linear_attention": sliding and hybrid/],
  ["experts", { num_local_experts: 8 }, /num_local_experts is 8: mixtures of experts/],
  ["yarn scaling", { rope_scaling: { rope_type: "yarn", factor: 4 } }, /type of rope_scaling is "yarn", only default/],
  ["an older type of scaling", { rope_scaling: { type: "linear", factor: 2 } }, /the type of rope_scaling is "linear"/],
  ["a scaling without its factor", { rope_scaling: { rope_type: "llama3" } }, /rope_scaling .*: factor is missing/],
  ["a scaling without a range", { rope_scaling: noRange }, /low_freq_factor must be below high_freq_factor$/],
  ["positions of a part of each head", { partial_rotary_factor: 0.5 }, /partial_rotary_factor is 0\.5/],
  ["another activation", { hidden_act: "gelu" }, /hidden_act is "gelu"/],
  ["another head", { architectures: ["LlamaForSequenceClassification"] }, /architectures is .*only LlamaForCausalLM/],
  ["groups that do not divide", { num_key_value_heads: 2 }, /num_key_value_heads is 2, .*num_attention_heads, 9/],
  ["heads that do not divide the width", { num_attention_heads: 7 }, /num_attention_heads is 7, .*hidden_size, 576/],
  ["heads of an odd width", { head_dim: 63 }, /head_dim is 63/],
  ["a stop id outside the vocabulary", { eos_token_id: [2, 49152] }, /eos_token_id is 49152, .*49152 entries/],
  ["a missing size", { hidden_size: undefined }, /hidden_size is missing/],
  ["a size beyond any limit", { hidden_size: 2 ** 31 }, /hidden_size is 2147483648: .*<=/],
])("refuses %s by the name of the field", (_, change, message) => {
  expect(() => read(change)).toThrow(message);
  expect(() => read(change)).toThrow(/^config\.json[^\n]*$/);
});

test("refuses what is no JSON, or no object", () => {
  expect(() => configOf("{", "config.json")).toThrow(/^config\.json is not JSON/);
  for (const text of ["null", "3", "[]"])
    expect(() => configOf(text, "config.json")).toThrow(/model_type is undefined/);
});
