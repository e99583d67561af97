/** llama.cpp's keys and tensor names are from gguf-py/gguf/constants.py. */
import { setLimits } from "../../../shared/artifacts/limits.ts";
import { describe } from "../../../shared/describe.ts";
import type { ModelConfig, Rotary } from "../../runtime/model-config.ts";
import {
  checkWeights,
  floatsOf,
  isBlockType,
  type ModelWeights,
  type Weight,
  weightShapes,
} from "../../runtime/model-weights.ts";
import { GgufHeader, type TensorInfo } from "./header.ts";
import { openPartFiles, type PartFiles } from "./part-files.ts";

/** The caller closes `file`. Throws an Error that names the faulty key or tensor. */
export function openGgufModel(path: string) {
  const file = openPartFiles(path);
  try {
    const header = new GgufHeader(file);
    const config = readConfig(path, header);
    const weights = readWeights(file, header, config);
    checkWeights(path, config, weights);
    checkFrequencyFactors(path, config, weights);
    return { config, weights, header, file };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Architectures by llama.cpp's names. For `pairsInterleave`, see `interleavedRow`. */
const architectures = {
  llama: { norm: "rms", activation: "swiglu", isRotary: true, pairsInterleave: true },
  qwen2: { norm: "rms", activation: "swiglu", isRotary: true, pairsInterleave: false },
  qwen3: { norm: "rms", activation: "swiglu", isRotary: true, pairsInterleave: false },
  gpt2: { norm: "layer", activation: "gelu", isRotary: false, pairsInterleave: false },
} as const;
type Architecture = keyof typeof architectures;

/** Metadata keys and their allowed values. The graphs do not compute models with other values. */
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
  if (isRotary && headWidth % 2 !== 0) throw refuse("attention.key_length", headWidth, "which is odd");
  const epsilonKey = `attention.layer_norm${norm === "rms" ? "_rms" : ""}_epsilon`;
  const normEpsilon = header.number(`${architecture}.${epsilonKey}`);
  // Outside this range, the sum of epsilon and a variance in float32 loses the smaller of the two.
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

/** `scaling` is null, because Llama 3's scaling is in the tensor `rope_freqs.weight`. */
function readRotary(path: string, header: GgufHeader, architecture: Architecture): Rotary {
  const theta = header.number(`${architecture}.rope.freq_base`) ?? 10_000;
  if (theta >= 1 && theta <= 1e12) return { theta, scaling: null };
  throw new Error(`${path}: ${architecture}.rope.freq_base is ${theta}, not between 1 and 1e12`);
}

/** Ids that end a text, a turn or a message. A file need not have all three. */
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
/** Tensor with Llama 3's divisors of the rotary frequencies, [d / 2]. */
const frequencyFactors = "rope_freqs.weight";

/** Throws an Error for an unknown tensor or a wrong number of rows. */
function readWeights(file: PartFiles, header: GgufHeader, config: ModelConfig): ModelWeights {
  const weights = new Map<string, Weight>();
  const shapes = weightShapes(config);
  const { heads, kvHeads, headWidth } = config;
  const { pairsInterleave } = architectures[architectureOf(file.path, header)];
  const refuse = (info: TensorInfo, why: string) => new Error(`${file.path}: tensor ${describe(info.name)} ${why}`);
  const shapeOf = (info: TensorInfo, name: string) => {
    const shape = shapes.get(name);
    if (shape && !weights.has(name)) return shape;
    throw refuse(info, "has no place in the model that the metadata describe");
  };
  /** Adds a weight that begins at row `from` of the tensor. The tensor must have `allRows` rows. */
  const addRows = (info: TensorInfo, name: string, from: number, allRows: number, isTurned: boolean) => {
    const shape = shapeOf(info, name);
    const wanted = [allRows, ...shape.slice(1)];
    if (`${info.shape}` !== `${wanted}`) throw refuse(info, `is [${info.shape}], not [${wanted}]`);
    // A row of a bias is a single value, which cannot be cut out of a block.
    if (info.shape.length === 1 && isBlockType(info.type))
      throw refuse(info, `has blocks of ${info.type} across its rows`);
    weights.set(name, rowsOf(file, info, { shape, from, turnedBy: isTurned ? headWidth : null }));
  };
  for (const info of header.tensors.values()) {
    const [, layer, stem = "", kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(info.name) ?? [];
    const known = layer === undefined ? names : layerNames;
    const prefix = layer === undefined ? "" : `model.layers.${layer}.`;
    if (info.name === frequencyFactors && config.positions !== "learned") {
      weights.set(info.name, wholeOf(file, info));
    } else if (Object.hasOwn(known, stem)) {
      const name = `${prefix}${known[stem]}.${kind}`;
      const [rows] = shapeOf(info, name);
      if (pairsInterleave && (stem === "attn_q" || stem === "attn_k")) addRows(info, name, 0, rows, true);
      else weights.set(name, wholeOf(file, info));
    } else if (layer !== undefined && stem === fused) {
      const allRows = (heads + 2 * kvHeads) * headWidth;
      let from = 0;
      for (const [part, count] of Object.entries({ q: heads, k: kvHeads, v: kvHeads })) {
        addRows(info, `${prefix}self_attn.${part}_proj.${kind}`, from, allRows, pairsInterleave && part !== "v");
        from += count * headWidth;
      }
    } else throw refuse(info, "is of no supported model");
  }
  return weights;
}

function checkFrequencyFactors(path: string, { headWidth }: ModelConfig, weights: ModelWeights): void {
  const factors = weights.get(frequencyFactors);
  if (!factors) return;
  if (`${factors.shape}` !== `${headWidth / 2}`) {
    throw new Error(`${path}: ${frequencyFactors} is [${factors.shape}], not [${headWidth / 2}]`);
  }
  const wrong = floatsOf(factors).find((factor) => !(factor > 0 && factor < Number.POSITIVE_INFINITY));
  if (wrong !== undefined) throw new Error(`${path}: ${frequencyFactors} holds ${wrong}, not a number above 0`);
}

function wholeOf(file: PartFiles, info: TensorInfo): Weight {
  return rowsOf(file, info, { shape: info.shape, from: 0, turnedBy: null });
}

interface Rows {
  shape: readonly number[]; // of the weight
  from: number;
  /** null unless llama.cpp has reordered the rows of each head (`interleavedRow`). */
  turnedBy: number | null;
}

/** Bytes are read at each access, so that only one tensor at a time is in memory. */
function rowsOf(file: PartFiles, { type, shape: all, at, bytes: size }: TensorInfo, rows: Rows): Weight {
  const { shape, from, turnedBy } = rows;
  const rowBytes = size / all[0];
  return {
    dtype: type,
    shape,
    get bytes() {
      const stored = file.read(at + from * rowBytes, shape[0] * rowBytes);
      if (turnedBy === null) return stored;
      const bytes = new Uint8Array(stored.length);
      for (let row = 0; row < shape[0]; row++) {
        const source = interleavedRow(row, turnedBy) * rowBytes;
        bytes.set(stored.subarray(source, source + rowBytes), row * rowBytes);
      }
      return bytes;
    },
  };
}

/** llama.cpp stores dimensions i and i + d/2 of a rotated head side by side. */
function interleavedRow(row: number, headWidth: number): number {
  const half = headWidth / 2;
  const i = row % headWidth;
  return row - i + (i < half ? 2 * i : 2 * (i - half) + 1);
}
