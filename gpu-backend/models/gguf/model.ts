/**
 * A GGUF file as a model: metadata → configuration, llama.cpp's tensor names → those of `ModelWeights`.
 * Keys and names: gguf-py/gguf/constants.py of llama.cpp.
 */
import { setLimits } from "../../../shared/artifacts/limits.ts";
import { describe } from "../../../shared/describe.ts";
import type { ModelConfig, Rotary } from "../../runtime/model-config.ts";
import { checkWeights, type ModelWeights, type Weight } from "../../runtime/model-weights.ts";
import { GgufHeader, type TensorInfo } from "./header.ts";
import { openPartFiles, type PartFiles } from "./part-files.ts";

export interface GgufModel {
  config: ModelConfig;
  /** Bytes are read from the file each time they are asked for, so that no more than one tensor need be in memory. */
  weights: ModelWeights;
  /** For the tokenizer and the chat template. */
  header: GgufHeader;
  file: PartFiles;
}

/**
 * Opens a model and checks it; nothing but the header is read. The caller closes `file`.
 * Throws an Error of one line that names the file, and the key or tensor at fault with its value.
 */
export function openGgufModel(path: string): GgufModel {
  const file = openPartFiles(path);
  try {
    const header = new GgufHeader(file);
    const config = readConfig(path, header);
    const weights = readWeights(file, header, config);
    checkWeights(path, config, weights);
    return { config, weights, header, file };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Which of our switches an architecture of llama.cpp's stands for. */
const architectures = {
  llama: { norm: "rms", activation: "swiglu", isRotary: true, pairsInterleave: true },
  qwen2: { norm: "rms", activation: "swiglu", isRotary: true, pairsInterleave: false },
  qwen3: { norm: "rms", activation: "swiglu", isRotary: true, pairsInterleave: false },
  gpt2: { norm: "layer", activation: "gelu", isRotary: false, pairsInterleave: false },
} as const;
type Architecture = keyof typeof architectures;

/** What makes a model another one than the graphs compute, wherever the key is present with another value. */
const refused: [key: string, allowed: (value: number | boolean | string) => boolean][] = [
  ["expert_count", (count) => count === 0],
  ["attention.sliding_window", (width) => width === 0],
  ["attention.causal", (isCausal) => isCausal === true],
  ["attention.scale", () => false],
  ["attention.max_alibi_bias", (bias) => bias === 0],
  ["attention.clamp_kqv", (limit) => limit === 0],
  ["use_parallel_residual", (isParallel) => isParallel === false],
  ["rope.scaling.type", (type) => type === "none"],
  ["rope.scale_linear", (factor) => factor === 1],
  ["logit_scale", () => false],
  ["residual_scale", () => false],
  ["embedding_scale", () => false],
  ["final_logit_softcapping", () => false],
];

function architectureOf(path: string, header: GgufHeader): Architecture {
  const name = header.text("general.architecture");
  if (name !== null && Object.hasOwn(architectures, name)) return name as Architecture;
  const supported = Object.keys(architectures).join(", ");
  throw new Error(`${path}: general.architecture is ${describe(name)}; supported are ${supported}`);
}

function readConfig(path: string, header: GgufHeader): ModelConfig {
  const architecture = architectureOf(path, header);
  const { norm, activation, isRotary } = architectures[architecture];
  const refuse = (key: string, found: unknown, why: string) =>
    new Error(`${path}: ${architecture}.${key} is ${describe(found)}, ${why}`);
  const size = (key: string, max: number, otherwise?: number): number => {
    const value = header.number(`${architecture}.${key}`) ?? otherwise ?? 0;
    if (Number.isInteger(value) && value > 0 && value <= max) return value;
    throw refuse(key, value, `not a size of at most ${max}`);
  };
  for (const [key, isAllowed] of refused) {
    const value = header.scalar(`${architecture}.${key}`);
    if (value !== null && !isAllowed(value)) throw refuse(key, value, "which is not supported");
  }
  const hiddenSize = size("embedding_length", setLimits.hiddenSize);
  const layers = size("block_count", setLimits.layers);
  const heads = size("attention.head_count", setLimits.heads);
  const kvHeads = size("attention.head_count_kv", heads, heads);
  if (heads % kvHeads !== 0) throw refuse("attention.head_count_kv", kvHeads, `which does not divide ${heads} heads`);
  const headWidth = size("attention.key_length", setLimits.hiddenSize, hiddenSize / heads);
  const valueWidth = size("attention.value_length", setLimits.hiddenSize, headWidth);
  if (valueWidth !== headWidth) throw refuse("attention.value_length", valueWidth, `keys have ${headWidth}`);
  const rotated = size("rope.dimension_count", setLimits.hiddenSize, headWidth);
  if (isRotary && rotated !== headWidth) throw refuse("rope.dimension_count", rotated, `heads have ${headWidth}`);
  const epsilonKey = `attention.layer_norm${norm === "rms" ? "_rms" : ""}_epsilon`;
  const normEpsilon = header.number(`${architecture}.${epsilonKey}`);
  // Outside this range, float32 rounds away the epsilon or the variance in their sum.
  if (normEpsilon === null || !(normEpsilon >= 1e-12 && normEpsilon <= 0.1)) {
    throw refuse(epsilonKey, normEpsilon, "not between 1e-12 and 0.1");
  }
  const has = (name: string) => header.tensors.has(name);
  const vocabularySize = header.tensors.get("token_embd.weight")?.shape[0] ?? 0;
  if (vocabularySize < 1 || vocabularySize > setLimits.vocabulary) {
    throw new Error(`${path}: a vocabulary of ${vocabularySize} ids, at most ${setLimits.vocabulary} are supported`);
  }
  const isFused = has("blk.0.attn_qkv.weight");
  return {
    vocabularySize,
    hiddenSize,
    layers,
    heads,
    kvHeads,
    headWidth,
    contextTokens: size("context_length", setLimits.contextTokens),
    stopIds: readStopIds(path, header, vocabularySize),
    feedForwardSize: size("feed_forward_length", 16 * setLimits.hiddenSize),
    norm,
    normEpsilon,
    activation,
    positions: isRotary ? readRotary(path, header, architecture) : "learned",
    queryKeyNorm: has("blk.0.attn_q_norm.weight"),
    biases: {
      queryKeyValue: has(isFused ? "blk.0.attn_qkv.bias" : "blk.0.attn_q.bias"),
      attentionOutput: has("blk.0.attn_output.bias"),
      feedForward: has("blk.0.ffn_down.bias"),
    },
    tiedHead: !has("output.weight"),
  };
}

/** Llama 3's scaling is in the file as factors of the frequencies, the tensor `rope_freqs.weight`. */
function readRotary(path: string, header: GgufHeader, architecture: Architecture): Rotary {
  const theta = header.number(`${architecture}.rope.freq_base`) ?? 10_000;
  if (theta >= 1 && theta <= 1e12) return { theta, scaling: null };
  throw new Error(`${path}: ${architecture}.rope.freq_base is ${theta}, not between 1 and 1e12`);
}

/** The ends of a text and of a turn, of which a file may name either or both. */
function readStopIds(path: string, header: GgufHeader, vocabularySize: number): number[] {
  const keys = ["eos", "eot", "eom"].map((end) => `tokenizer.ggml.${end}_token_id`);
  const ids = new Set<number>();
  for (const key of keys) {
    const id = header.number(key);
    if (id === null) continue;
    if (!Number.isInteger(id) || id < 0 || id >= vocabularySize) {
      throw new Error(`${path}: ${key} is ${id}, not one of ${vocabularySize} ids`);
    }
    ids.add(id);
  }
  if (ids.size === 0) throw new Error(`${path}: ${keys[0]} is missing`);
  return [...ids];
}

/** llama.cpp's names → Hugging Face's. */
const names: Record<string, string> = {
  token_embd: "model.embed_tokens",
  position_embd: "model.embed_positions",
  output_norm: "model.norm",
  output: "lm_head",
};
const layerNames: Record<string, string> = {
  attn_norm: "input_layernorm",
  ffn_norm: "post_attention_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};
const fused = "attn_qkv";
/** Divisors of the frequencies, [d / 2], where Llama 3 stretches them. */
const frequencyFactors = "rope_freqs.weight";

/** Throws an Error that names a tensor that no supported model has. */
function readWeights(file: PartFiles, header: GgufHeader, config: ModelConfig): ModelWeights {
  const weights = new Map<string, Weight>();
  const { heads, kvHeads, headWidth } = config;
  const { pairsInterleave } = architectures[architectureOf(file.path, header)];
  for (const info of header.tensors.values()) {
    const [, layer, stem, kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(info.name) ?? [];
    const known = layer === undefined ? names[stem] : layerNames[stem];
    if (info.name === frequencyFactors) weights.set(info.name, rowsOf(file, info));
    else if (known !== undefined) {
      const turned = pairsInterleave && (stem === "attn_q" || stem === "attn_k");
      const order = turned ? halvesOrder(stem === "attn_q" ? heads : kvHeads, headWidth) : undefined;
      const prefix = layer === undefined ? "" : `model.layers.${layer}.`;
      weights.set(`${prefix}${known}.${kind}`, rowsOf(file, info, order));
    } else if (layer !== undefined && stem === fused) {
      let from = 0;
      for (const [part, count] of Object.entries({ q: heads, k: kvHeads, v: kvHeads })) {
        const order = Array.from({ length: count * headWidth }, (_, i) => from + i);
        weights.set(`model.layers.${layer}.self_attn.${part}_proj.${kind}`, rowsOf(file, info, order));
        from += order.length;
      }
    } else throw new Error(`${file.path}: tensor ${describe(info.name)} is of no supported model`);
  }
  return weights;
}

/** llama.cpp stores dimension i and i + d/2 of a rotated head side by side: the row of each dimension in halves' order. */
function halvesOrder(heads: number, headWidth: number): number[] {
  const half = headWidth / 2;
  return Array.from({ length: heads * headWidth }, (_, row) => {
    const i = row % headWidth;
    return row - i + (i < half ? 2 * i : 2 * (i - half) + 1);
  });
}

/** A tensor, or these of its rows in this order; blocks do not cross rows. A bias has rows of one value. */
function rowsOf(file: PartFiles, { type, shape, at, bytes: size }: TensorInfo, order?: readonly number[]): Weight {
  if (!order) {
    return {
      dtype: type,
      shape,
      get bytes() {
        return file.read(at, size);
      },
    };
  }
  const rowBytes = size / shape[0];
  return {
    dtype: type,
    shape: [order.length, ...shape.slice(1)],
    get bytes() {
      const whole = file.read(at, size);
      const bytes = new Uint8Array(order.length * rowBytes);
      order.forEach((row, i) => {
        bytes.set(whole.subarray(row * rowBytes, (row + 1) * rowBytes), i * rowBytes);
      });
      return bytes;
    },
  };
}
