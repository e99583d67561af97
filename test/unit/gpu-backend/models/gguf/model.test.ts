import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { getHeapStatistics } from "node:v8";
import { expect, test } from "vitest";
import { openGgufModel } from "../../../../../gpu-backend/models/gguf/model.ts";
import type { ModelConfig } from "../../../../../gpu-backend/runtime/model-config.ts";
import { floatsOf, weightOf, weightShapes } from "../../../../../gpu-backend/runtime/model-weights.ts";
import { type GgufTensor, type GgufValue, writeGguf } from "../../../../support/gguf-writer.ts";
import { seededRandom } from "../../../../support/steps.ts";
import { temporaryFolder } from "../../../../support/temporary-folder.ts";

const folder = temporaryFolder();

const [V, D, H, K, d, F, layers] = [40, 64, 4, 2, 16, 96, 2];
const random = seededRandom(5);

/** Matrices [out, in] by Hugging Face's names. */
type Matrices = Map<string, { shape: number[]; values: Float32Array }>;

const theirNames: Record<string, string> = {
  "model.embed_tokens": "token_embd",
  "model.embed_positions": "position_embd",
  "model.norm": "output_norm",
  lm_head: "output",
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

const config: ModelConfig = {
  ...{ vocabularySize: V, hiddenSize: D, layers, heads: H, kvHeads: K, headWidth: d, contextTokens: 512 },
  ...{ stopIds: [2], feedForwardSize: F, norm: "rms", normEpsilon: 2 ** -20, activation: "swiglu" },
  positions: { theta: 10_000, scaling: null },
  queryKeyNorm: false,
  biases: { queryKeyValue: false, attentionOutput: false, feedForward: false },
  tiedHead: true,
};

const metadata = (architecture: string): Record<string, GgufValue> => ({
  "general.architecture": { text: architecture },
  [`${architecture}.context_length`]: { u32: 512 },
  [`${architecture}.embedding_length`]: { u32: D },
  [`${architecture}.feed_forward_length`]: { u32: F },
  [`${architecture}.block_count`]: { u32: layers },
  [`${architecture}.attention.head_count`]: { u32: H },
  [`${architecture}.attention.head_count_kv`]: { u32: K },
  [`${architecture}.attention.layer_norm_rms_epsilon`]: { f32: 2 ** -20 },
  "tokenizer.ggml.eos_token_id": { u32: 2 },
});

function randomMatrices(of: ModelConfig): Matrices {
  return new Map(
    [...weightShapes(of)].map(([name, shape]) => {
      const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random() - 0.5);
      return [name, { shape, values }];
    }),
  );
}

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

function tensorsOf(matrices: Matrices, pairsInterleave: boolean): GgufTensor[] {
  return [...matrices].map(([name, { shape, values }]) => {
    const [, layer, stem, kind] = /^(?:model\.layers\.(\d+)\.)?(.*)\.(weight|bias)$/.exec(name)!;
    const heads = stem.endsWith("q_proj") ? H : stem.endsWith("k_proj") ? K : 0;
    return {
      name: `${layer === undefined ? "" : `blk.${layer}.`}${theirNames[stem]}.${kind}`,
      shape,
      values: pairsInterleave && heads > 0 ? interleaved(values, heads) : values,
      format: "f32",
    };
  });
}

function zeros(name: string, shape: number[], values?: readonly number[]): GgufTensor {
  const elements = shape.reduce((a, b) => a * b);
  return { name, shape, values: Float32Array.from(values ?? new Array<number>(elements).fill(0)), format: "f32" };
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
  const matrices = randomMatrices(wanted);
  const model = open(metadata(architecture), tensorsOf(matrices, architecture === "llama"));
  expect(model.config).toEqual(wanted);
  expect([...model.weights.keys()].sort()).toEqual([...matrices.keys()].sort());
  for (const [name, { shape, values }] of matrices) {
    expect(weightOf(model.weights, name).shape, name).toEqual(shape);
    expect(floatsOf(weightOf(model.weights, name)), name).toEqual(values);
  }
  model.file.close();
});

test("GPT-2's queries, keys and values are one tensor", () => {
  const wanted: ModelConfig = {
    ...{ ...config, kvHeads: H, norm: "layer", activation: "gelu", positions: "learned" },
    biases: { queryKeyValue: true, attentionOutput: true, feedForward: true },
  };
  const matrices = randomMatrices(wanted);
  const tensors = tensorsOf(matrices, false).filter(({ name }) => !/attn_[qkv]\./.test(name));
  for (let l = 0; l < layers; l++) {
    for (const kind of ["weight", "bias"]) {
      const parts = ["q", "k", "v"].map((part) => matrices.get(`model.layers.${l}.self_attn.${part}_proj.${kind}`)!);
      const values = Float32Array.from(parts.flatMap((part) => [...part.values]));
      const shape = [3 * H * d, ...parts[0].shape.slice(1)];
      tensors.push({ name: `blk.${l}.attn_qkv.${kind}`, shape, values, format: "f32" });
    }
  }
  const entries = { ...metadata("gpt2"), "gpt2.attention.head_count_kv": { u32: H } };
  const model = open({ ...entries, "gpt2.attention.layer_norm_epsilon": { f32: 2 ** -20 } }, tensors);
  expect(model.config).toEqual(wanted);
  for (const [name, { values }] of matrices) {
    expect(floatsOf(weightOf(model.weights, name)), name).toEqual(values);
  }
  model.file.close();
});

test("rows of blocks are reordered as they are", () => {
  const tensors = tensorsOf(randomMatrices(config), true);
  const plain = open(metadata("llama"), tensors);
  const floats = floatsOf(weightOf(plain.weights, "model.layers.1.self_attn.q_proj.weight"));
  plain.file.close();
  const packed = open(
    metadata("llama"),
    tensors.map((tensor) => (tensor.name === "blk.1.attn_q.weight" ? { ...tensor, format: "q8_0" } : tensor)),
  );
  const weight = weightOf(packed.weights, "model.layers.1.self_attn.q_proj.weight");
  expect(weight.dtype).toBe("Q8_0");
  const greatest = Math.max(...floatsOf(weight).map((value, i) => Math.abs(value - floats[i])));
  expect(greatest).toBeLessThan(0.5 / 127);
  packed.file.close();
});

test("queries and keys are also turned where they are one tensor with the values", () => {
  const matrices = randomMatrices(config);
  const tensors = tensorsOf(matrices, true);
  const model = open(metadata("llama"), [
    ...tensors.filter(({ name }) => !/attn_[qkv]\./.test(name)),
    ...[0, 1].map((l) => {
      const parts = ["q", "k", "v"].map((part) => tensors.find(({ name }) => name === `blk.${l}.attn_${part}.weight`)!);
      return zeros(
        `blk.${l}.attn_qkv.weight`,
        [(H + 2 * K) * d, D],
        parts.flatMap((part) => [...part.values]),
      );
    }),
  ]);
  for (const [name, { values }] of matrices) expect(floatsOf(weightOf(model.weights, name)), name).toEqual(values);
  model.file.close();
});

test("Llama 3's factors of the frequencies stay beside the weights", () => {
  const factors = Float32Array.from({ length: d / 2 }, (_, i) => 1 + i);
  const tensors = tensorsOf(randomMatrices(config), true);
  const model = open(metadata("llama"), [
    ...tensors,
    { name: "rope_freqs.weight", shape: [d / 2], values: factors, format: "f32" },
  ]);
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
  const tensors = tensorsOf(randomMatrices(config), true);
  expect(() => open({ ...metadata("llama"), ...entries }, tensors)).toThrow(message);
});

const own = tensorsOf(randomMatrices(config), true);
const without = (pattern: RegExp) => own.filter(({ name }) => !pattern.test(name));
const factorsOf = (...factors: number[]) => zeros("rope_freqs.weight", [factors.length], factors);
const fusedShape = "is [1,64], not [128,64]";
test.each<[string, GgufTensor[], string]>([
  ["one row of queries", [...without(/0.attn_q\./), zeros("blk.0.attn_q.weight", [1, D])], "is [1,64], not [64,64]"],
  ["rows too many", [...without(/0.attn_q\./), zeros("blk.0.attn_q.weight", [128, D])], "is [128,64], not [64,64]"],
  ["a row of all three", [...without(/0.attn_[qkv]\./), zeros("blk.0.attn_qkv.weight", [1, D])], fusedShape],
  [
    "a bias in blocks, whose rows are of one value",
    [...own, ...["q", "k", "v"].map((part) => zeros(`blk.0.attn_${part}.bias`, [part === "q" ? H * d : K * d]))].map(
      (tensor) => (tensor.name === "blk.0.attn_q.bias" ? { ...tensor, format: "q8_0" as const } : tensor),
    ),
    '"blk.0.attn_q.bias" has blocks of Q8_0 across its rows',
  ],
  ["queries twice", [...own, zeros("blk.0.attn_qkv.weight", [128, D])], '"blk.0.attn_qkv.weight" has no place'],
  ["a name that no model has", [...own, zeros("blk.0.ssm_in.weight", [8])], '"blk.0.ssm_in.weight" is of no supported'],
  ["a name of every object", [...own, zeros("constructor.weight", [8])], '"constructor.weight" is of no supported'],
  ["another in a layer", [...own, zeros("blk.0.__proto__.bias", [8])], '"blk.0.__proto__.bias" is of no supported'],
  ["a layer too many", [...own, zeros("blk.2.attn_norm.weight", [D])], '"blk.2.attn_norm.weight" has no place'],
  ["a layer's other number", [...own, zeros("blk.00.attn_norm.weight", [D])], '"blk.00.attn_norm.weight" has no place'],
  ["the bias of a norm", [...own, zeros("output_norm.bias", [D])], '"output_norm.bias" has no place'],
  ["learned positions", [...own, zeros("position_embd.weight", [512, D])], '"position_embd.weight" has no place'],
  ["a bias of keys alone", [...own, zeros("blk.0.attn_k.bias", [K * d])], '"blk.0.attn_k.bias" has no place'],
  [
    "a bias of queries alone",
    [...own, zeros("blk.0.attn_q.bias", [H * d])],
    "no tensor model.layers.0.self_attn.k_proj",
  ],
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
