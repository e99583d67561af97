import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { getHeapStatistics } from "node:v8";
import { expect, test } from "vitest";
import { openGgufModel } from "../../../../../gpu-backend/models/gguf/model.ts";
import type { ModelConfig } from "../../../../../gpu-backend/runtime/model-config.ts";
import { floatsOf, type ModelWeights, weightOf } from "../../../../../gpu-backend/runtime/model-weights.ts";
import { ggufName, ggufSizes } from "../../../../support/gguf-model.ts";
import { type GgufTensor, type GgufValue, writeGguf } from "../../../../support/gguf-writer.ts";
import { randomWeights } from "../../../../support/random-weights.ts";
import { seededRandom } from "../../../../support/steps.ts";
import { temporaryFolder } from "../../../../support/temporary-folder.ts";
import { tinyLlama } from "../../../../support/tiny-families.ts";

const folder = temporaryFolder();

const [V, D, H, K, d, layers] = [40, 64, 4, 2, 16, 2];
const random = seededRandom(5);

const config: ModelConfig = {
  ...{ ...tinyLlama, positions: { theta: 10_000, scaling: null }, normEpsilon: 2 ** -20, stopIds: [2] },
  ...{ vocabularySize: V, hiddenSize: D, layers, heads: H, kvHeads: K, headWidth: d, contextTokens: 512 },
};
const metadata = (architecture: string): Record<string, GgufValue> => ({
  ...ggufSizes(architecture, config),
  "tokenizer.ggml.eos_token_id": { u32: 2 },
});
/** Weights between -0.5 and 0.5, except the gains of norms. */
const weightsOf = (of: ModelConfig) => randomWeights(of, random, 0.5 / Math.sqrt(3));

/** Rows of each head as llama.cpp's converter reorders them: reshape(heads, 2, d / 2, …).swapaxes(1, 2). */
function interleaved(values: Float32Array, heads: number): Float32Array {
  const rowLength = values.length / (heads * d);
  const turned = new Float32Array(values.length);
  for (let head = 0; head < heads; head++) {
    for (let half = 0; half < 2; half++) {
      for (let i = 0; i < d / 2; i++) {
        const from = head * d + (half * d) / 2 + i;
        turned.set(values.subarray(from * rowLength, (from + 1) * rowLength), (head * d + 2 * i + half) * rowLength);
      }
    }
  }
  return turned;
}

function tensorsOf(weights: ModelWeights, pairsInterleave: boolean): GgufTensor[] {
  return [...weights].map(([name, weight]) => {
    const heads = name.includes("q_proj") ? H : name.includes("k_proj") ? K : 0;
    const values = floatsOf(weight);
    const stored = pairsInterleave && heads > 0 ? interleaved(values, heads) : values;
    return { name: ggufName(name), shape: [...weight.shape], values: stored, format: "f32" };
  });
}

function expectSame(found: ModelWeights, wanted: ModelWeights): void {
  for (const [name, weight] of wanted) {
    expect(weightOf(found, name).shape, name).toEqual(weight.shape);
    expect(floatsOf(weightOf(found, name)), name).toEqual(floatsOf(weight));
  }
}

/** The tensors, with the one called `name` in the format q8_0. */
const inBlocks = (name: string, tensors: GgufTensor[]) =>
  tensors.map((tensor) => (tensor.name === name ? { ...tensor, format: "q8_0" as const } : tensor));

/** A tensor of zeros, or of `values`. */
function zeros(name: string, shape: number[], values?: readonly number[]): GgufTensor {
  const elements = shape.reduce((a, b) => a * b);
  return { name, shape, values: Float32Array.from(values ?? new Array<number>(elements).fill(0)), format: "f32" };
}

/** The same tensors, with each layer's queries, keys and values joined in one tensor. */
function fused(tensors: GgufTensor[], kind: "weight" | "bias"): GgufTensor[] {
  const isPart = ({ name }: GgufTensor) => new RegExp(`attn_[qkv]\\.${kind}`).test(name);
  const ofLayers = Array.from({ length: layers }, (_, l) => {
    const parts = ["q", "k", "v"].map((part) => tensors.find(({ name }) => name === `blk.${l}.attn_${part}.${kind}`)!);
    const rows = parts.reduce((sum, { shape }) => sum + shape[0], 0);
    const values = parts.flatMap((part) => [...part.values]);
    return zeros(`blk.${l}.attn_qkv.${kind}`, [rows, ...parts[0].shape.slice(1)], values);
  });
  return [...tensors.filter((tensor) => !isPart(tensor)), ...ofLayers];
}

function open(entries: Record<string, GgufValue>, tensors: GgufTensor[]) {
  const path = join(folder, "m.gguf");
  writeFileSync(path, writeGguf(entries, tensors));
  return openGgufModel(path);
}

test.each<[string, Partial<ModelConfig>]>([
  ["llama", {}],
  ["llama", { tiedHead: false }],
  ["qwen2", { biases: { queryKeyValue: true, attentionOutput: false, feedForward: false } }],
  ["qwen3", { queryKeyNorm: true }],
])("%s with %o has its configuration and its values", (architecture, differences) => {
  const wanted = { ...config, ...differences };
  const weights = weightsOf(wanted);
  const model = open(metadata(architecture), tensorsOf(weights, architecture === "llama"));
  expect(model.config).toEqual(wanted);
  expect([...model.weights.keys()].sort()).toEqual([...weights.keys()].sort());
  expectSame(model.weights, weights);
  model.file.close();
});

test("GPT-2's queries, keys and values are one tensor", () => {
  const wanted: ModelConfig = {
    ...{ ...config, kvHeads: H, norm: "layer", activation: "gelu", positions: "learned" },
    biases: { queryKeyValue: true, attentionOutput: true, feedForward: true },
  };
  const weights = weightsOf(wanted);
  const tensors = fused(fused(tensorsOf(weights, false), "weight"), "bias");
  const entries = { ...metadata("gpt2"), "gpt2.attention.head_count_kv": { u32: H } };
  const model = open({ ...entries, "gpt2.attention.layer_norm_epsilon": { f32: 2 ** -20 } }, tensors);
  expect(model.config).toEqual(wanted);
  expectSame(model.weights, weights);
  model.file.close();
});

test("rows of blocks are reordered as they are", () => {
  const tensors = tensorsOf(weightsOf(config), true);
  const plain = open(metadata("llama"), tensors);
  const floats = floatsOf(weightOf(plain.weights, "model.layers.1.self_attn.q_proj.weight"));
  plain.file.close();
  const packed = open(metadata("llama"), inBlocks("blk.1.attn_q.weight", tensors));
  const weight = weightOf(packed.weights, "model.layers.1.self_attn.q_proj.weight");
  expect(weight.dtype).toBe("Q8_0");
  const greatest = Math.max(...floatsOf(weight).map((value, i) => Math.abs(value - floats[i])));
  expect(greatest).toBeLessThan(0.5 / 127);
  packed.file.close();
});

test("queries and keys are also turned where they are one tensor with the values", () => {
  const weights = weightsOf(config);
  const model = open(metadata("llama"), fused(tensorsOf(weights, true), "weight"));
  expectSame(model.weights, weights);
  model.file.close();
});

test("Llama 3's factors of the frequencies stay beside the weights", () => {
  const factors = Float32Array.from({ length: d / 2 }, (_, i) => 1 + i);
  const tensors = tensorsOf(weightsOf(config), true);
  const model = open(metadata("llama"), [...tensors, zeros("rope_freqs.weight", [d / 2], [...factors])]);
  expect(floatsOf(weightOf(model.weights, "rope_freqs.weight"))).toEqual(factors);
  model.file.close();
});

test.each<[string, Record<string, GgufValue>, string]>([
  ["another architecture", { "general.architecture": { text: "mamba" } }, 'general.architecture is "mamba"; supported'],
  ["experts", { "llama.expert_count": { u32: 8 } }, "llama.expert_count is 8, which is not supported"],
  ["a window", { "llama.attention.sliding_window": { u32: 4096 } }, "llama.attention.sliding_window is 4096, which"],
  ["a stretched context", { "llama.rope.scaling.type": { text: "yarn" } }, 'rope.scaling.type is "yarn", which'],
  ["partial rotation", { "llama.rope.dimension_count": { u32: 8 } }, "llama.rope.dimension_count is 8, heads have 16"],
  ["heads that differ by layer", { "llama.attention.head_count_kv": { i32s: [2, 4] } }, "is an array of type 5, not"],
  ["heads that do not divide", { "llama.attention.head_count_kv": { u32: 3 } }, "which does not divide 4 heads"],
  ["wide values", { "llama.attention.value_length": { u32: 32 } }, "attention.value_length is 32, keys have 16"],
  ["no layers", { "llama.block_count": { u32: 0 } }, "llama.block_count is 0, not a size of at most 512"],
  ["more layers than there are", { "llama.block_count": { u32: 3 } }, "has no tensor model.layers.2.input_layernorm"],
  ["heads of an odd width", { "llama.attention.key_length": { u32: 15 } }, "attention.key_length is 15, which is odd"],
  ["another width", { "llama.feed_forward_length": { u32: 128 } }, "mlp.gate_proj.weight is [96,64], not [128,64]"],
  ["no epsilon", { "llama.attention.layer_norm_rms_epsilon": { f32: 0 } }, "not between 1e-12 and 0.1"],
  ["an end of text that is no id", { "tokenizer.ggml.eos_token_id": { u32: V } }, "eos_token_id is 40, not one of 40"],
])("refuses %s", (_, entries, message) => {
  const tensors = tensorsOf(weightsOf(config), true);
  expect(() => open({ ...metadata("llama"), ...entries }, tensors)).toThrow(message);
});

const own = tensorsOf(weightsOf(config), true);
const without = (pattern: RegExp) => own.filter(({ name }) => !pattern.test(name));
const factorsOf = (...factors: number[]) => zeros("rope_freqs.weight", [factors.length], factors);
const biased = [...own, ...[H, K, K].map((heads, i) => zeros(`blk.0.attn_${"qkv"[i]}.bias`, [heads * d]))];
const fusedShape = "is [1,64], not [128,64]";
test.each<[string, GgufTensor[], string]>([
  ["one row of queries", [...without(/0.attn_q\./), zeros("blk.0.attn_q.weight", [1, D])], "is [1,64], not [64,64]"],
  ["rows too many", [...without(/0.attn_q\./), zeros("blk.0.attn_q.weight", [128, D])], "is [128,64], not [64,64]"],
  ["a row of all three", [...without(/0.attn_[qkv]\./), zeros("blk.0.attn_qkv.weight", [1, D])], fusedShape],
  ["a bias in blocks", inBlocks("blk.0.attn_q.bias", biased), '"blk.0.attn_q.bias" has blocks of Q8_0 across its rows'],
  ["queries twice", [...own, zeros("blk.0.attn_qkv.weight", [128, D])], '"blk.0.attn_qkv.weight" has no place'],
  ["a name that no model has", [...own, zeros("blk.0.ssm_in.weight", [8])], '"blk.0.ssm_in.weight" is of no supported'],
  ["a name of every object", [...own, zeros("constructor.weight", [8])], '"constructor.weight" is of no supported'],
  ["another in a layer", [...own, zeros("blk.0.__proto__.bias", [8])], '"blk.0.__proto__.bias" is of no supported'],
  ["a layer too many", [...own, zeros("blk.2.attn_norm.weight", [D])], '"blk.2.attn_norm.weight" has no place'],
  ["a layer's other number", [...own, zeros("blk.00.attn_norm.weight", [D])], '"blk.00.attn_norm.weight" has no place'],
  ["the bias of a norm", [...own, zeros("output_norm.bias", [D])], '"output_norm.bias" has no place'],
  ["learned positions", [...own, zeros("position_embd.weight", [512, D])], '"position_embd.weight" has no place'],
  ["a bias of keys alone", [...own, zeros("blk.0.attn_k.bias", [K * d])], '"blk.0.attn_k.bias" has no place'],
  ["a query bias alone", [...own, zeros("blk.0.attn_q.bias", [H * d])], "no tensor model.layers.0.self_attn.k_proj"],
  ["a bias of one layer", [...own, zeros("blk.1.attn_output.bias", [D])], '"blk.1.attn_output.bias" has no place'],
  ["factors too few", [...own, factorsOf(1, 1, 1, 1)], "rope_freqs.weight is [4], not [8]"],
  ...[0, -2, Number.POSITIVE_INFINITY, Number.NaN].map((bad): [string, GgufTensor[], string] => [
    `a factor of ${bad}`,
    [...own, factorsOf(1, 1, 1, 1, 1, 1, 1, bad)],
    `rope_freqs.weight holds ${bad}, not a number above 0`,
  ]),
])("refuses tensors with %s", (_, tensors, message) => {
  expect(() => open(metadata("llama"), tensors)).toThrow(message);
});

test("a small file that claims wide heads is refused before anything is made for them", () => {
  const entries = {
    ...metadata("llama"),
    ...{ "llama.block_count": { u32: 4 }, "llama.attention.key_length": { u32: 16_384 } },
    ...{ "llama.attention.head_count": { u32: 512 }, "llama.attention.head_count_kv": { u32: 512 } },
  };
  const single = [0, 1, 2, 3].map((l) => zeros(`blk.${l}.attn_q.weight`, [1]));
  const before = getHeapStatistics().used_heap_size;
  expect(() => open(entries, [zeros("token_embd.weight", [V, D]), ...single])).toThrow("is [1], not [8388608,64]");
  expect(getHeapStatistics().used_heap_size - before).toBeLessThan(2 ** 25);
});
