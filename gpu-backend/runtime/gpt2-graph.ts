/**
 * GPT-2 as ONNX graphs, from Hugging Face weights: the serving graph (trunk, head, delta, row bias, top-K) and the
 * trunk alone. "Split" KV: the past is a read-only input, only the new keys and values come out.
 * Source of the model: Radford et al. 2019; of the delta: arXiv 2502.04315, eq. for the adapted LM head.
 */

import { type TensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { GraphBuilder } from "./graph.ts";
import { addBlockMatMul, addQuantizedMatMuls, blockRows, quantizeBlocks, quantizeColumns } from "./quantizer.ts";
import type { Device } from "./session.ts";
import { type Bank, type Gpt2Config, topCandidates } from "./step.ts";
import { transpose } from "./transpose.ts";

/** How the trunk's matrices and the head are stored; the delta is fp32 in all. */
export const weightFormats = ["fp32", "int8", "block8", "block4"] as const;
export type WeightFormat = (typeof weightFormats)[number];

/** The formats that a model of this shape can be stored in, fp32 first. */
export function formatsFor({ hiddenSize }: Gpt2Config): WeightFormat[] {
  return weightFormats.filter((format) => !format.startsWith("block") || hiddenSize % blockRows === 0);
}

/** Input and output names of the serving graph; shapes are in step.ts. */
export const names = {
  tokenIds: "token_ids",
  positions: "positions",
  pastMask: "past_mask",
  causalMask: "causal_mask",
  begun: "begun",
  pastKey: (layer: number) => `past_key.${layer}`,
  pastValue: (layer: number) => `past_value.${layer}`,
  /** With a past on the device only: which of its rows are read, where new keys and values go, and what comes of it. */
  pastRows: "past_rows",
  writeAt: "write_at",
  grown: (index: number) => `grown.${index}`,
  headRows: "head_rows",
  /** Whether anybody reads the head, and whether anybody's temperature is not 1. */
  wantsHead: "wants_head",
  wantsScaled: "wants_scaled",
  gates: "gates",
  poolA: "pool_a",
  poolB: "pool_b",
  poolMask: "pool_mask",
  inverseTemperatures: "inverse_temperatures",
  targetIds: "target_ids",
  biasIndices: "bias_indices",
  biasValues: "bias_values",
  present: "present",
  topLogits: "top_logits",
  topIds: "top_ids",
  topProbability: "top_probability",
  scaledTopProbability: "scaled_top_probability",
  targetLogits: "target_logits",
  logits: "logits",
  hidden: "hidden",
} as const;

/** Slots for full adapters of one rank. */
export interface PoolShape {
  slots: number;
  rank: number;
}

/** What a graph is made from and into. */
interface Build {
  g: GraphBuilder;
  config: Gpt2Config;
  weights: TensorFile;
  format: WeightFormat;
  device: Device;
}

/** The graph that serves: logits only at `head_rows`, with each row's delta and bias, and only where they are wanted. */
export function buildServingGraph(
  config: Gpt2Config,
  weights: TensorFile,
  bank: Bank,
  options: { format: WeightFormat; pool: PoolShape | null; device: Device },
): Uint8Array {
  const { format, pool, device } = options;
  const { hiddenSize: D, vocabularySize: V, heads: H } = config;
  const g = new GraphBuilder("gpt2-serving");
  const build: Build = { g, config, weights, format, device };
  const past = device === "webgpu" ? addPastOnDevice(build) : addPast(build);
  const headRows = g.input(names.headRows, "int32", ["N"]);
  const { hidden, fresh, baseLogits } = addTrunk(build, past, headRows);
  g.output(names.present, g.node("Concat", fresh, { axis: 0 }), "float32", ["2L*S", H, "T", D / H]);
  if (past.write) past.write(fresh);
  g.output(names.hidden, hidden, "float32", ["N", D]);

  const K = Math.min(topCandidates, V);
  const outputs = [
    { name: names.topLogits, type: "float32", shape: ["N", K] },
    { name: names.topIds, type: "int32", shape: ["N", K] },
    { name: names.topProbability, type: "float32", shape: ["N", 1] },
    { name: names.scaledTopProbability, type: "float32", shape: ["N", 1] },
    { name: names.targetLogits, type: "float32", shape: ["N"] },
    { name: names.logits, type: "float32", shape: ["N", V] },
  ] as const;
  const delta = addDeltaInputs(build, bank, pool);
  const rowInputs = addRowInputs(g);
  const values = g.when(g.input(names.wantsHead, "bool", []), outputs, () => {
    const adapted = delta(hidden, baseLogits(hidden));
    return rowInputs(adapted, K);
  });
  outputs.forEach(({ name, type, shape }, i) => {
    g.output(name, values[i], type, shape);
  });
  return g.bytes();
}

/** Inputs of the adapters. Returns what adds their deltas to the base logits [N, V] of hidden states [N, D]. */
function addDeltaInputs({ g, config }: Build, bank: Bank, pool: PoolShape | null) {
  const { hiddenSize: D, vocabularySize: V } = config;
  const Q = bank.gates;
  const gates = g.input(names.gates, "float32", ["N", Q]);
  const R = pool ? pool.slots * pool.rank : 0;
  const poolA = pool && g.input(names.poolA, "float32", [R, D]);
  const poolB = pool && g.input(names.poolB, "float32", [R, V]);
  const poolMask = pool && g.input(names.poolMask, "float32", ["N", R]); // 1 in the columns of the row's slot
  return (hidden: string, base: string) => {
    let adapted = base;
    if (Q > 0) {
      const a = g.constant(bank.a, [Q, D], "bank.a");
      const a0 = g.constant(bank.a0, [Q], "bank.a0");
      const b = g.constant(bank.b, [Q, V], "bank.b");
      const u = g.node("Mul", [g.node("Gemm", [hidden, a, a0], { transB: 1 }), gates]); // [N, Q]
      adapted = g.node("Gemm", [u, b, base]);
    }
    if (poolA && poolB && poolMask) {
      const own = g.node("Mul", [g.node("Gemm", [hidden, poolA], { transB: 1 }), poolMask]);
      adapted = g.node("Gemm", [own, poolB, adapted]);
    }
    return adapted;
  };
}

/** Inputs of the head rows. Returns what makes the outputs of the serving graph's head, in their order, from adapted logits [N, V]. */
function addRowInputs(g: GraphBuilder) {
  const biasIndices = g.input(names.biasIndices, "int32", ["M", 2]);
  const biasValues = g.input(names.biasValues, "float32", ["M"]);
  const inverseTemperatures = g.input(names.inverseTemperatures, "float32", ["N"]);
  const wantsScaled = g.input(names.wantsScaled, "bool", []);
  const targetIds = g.input(names.targetIds, "int32", ["N"]);
  return (adapted: string, K: number) => {
    const indices = g.node("Cast", [biasIndices], { to: 7 });
    const logits = g.node("ScatterND", [adapted, indices, biasValues], { reduction: "add" });
    const [topLogits, topIds] = g.nodes("TopK", [logits, g.integers(K)], 2, { axis: -1, largest: 1, sorted: 1 });
    const top = g.node("Slice", [topIds, g.integers(0), g.integers(1), g.integers(1)]); // [N, 1]
    const ofTop = (x: string) => g.node("GatherElements", [g.node("Softmax", [x], { axis: -1 }), top], { axis: 1 });
    const scaledOfTop = () => {
      const column = g.node("Unsqueeze", [inverseTemperatures, g.integers(1)]);
      return [ofTop(g.node("Mul", [logits, column]))];
    };
    const [scaledTop] = g.when(wantsScaled, [{ type: "float32", shape: ["N", 1] }], scaledOfTop);
    const targets = g.node("Unsqueeze", [targetIds, g.integers(1)]);
    const targetLogits = g.node("GatherElements", [logits, targets], { axis: 1 });
    return [
      topLogits,
      g.node("Cast", [topIds], { to: 6 }),
      ofTop(logits),
      scaledTop,
      g.node("Squeeze", [targetLogits, g.integers(1)]),
      logits,
    ];
  };
}

/** The trunk without a past and without a head: token ids [S, T] → final hidden states [S × T, D], for training. */
export function buildTrunkGraph(config: Gpt2Config, weights: TensorFile): Uint8Array {
  const g = new GraphBuilder("gpt2-trunk");
  const build: Build = { g, config, weights, format: "fp32", device: "cpu" };
  const { hidden } = addTrunk(build, null, null);
  g.output(names.hidden, hidden, "float32", ["S*T", config.hiddenSize]);
  return g.bytes();
}

interface Past {
  mask: string;
  /** Of each layer, [S, H, P, d]. */
  keys: string[];
  values: string[];
  /** What is there already of the step's chunk: keys, then values, of each layer, 2L × [S, H, G, d]. */
  begun: string[];
  /** Adds the outputs that are this past grown by the step's keys and values, where the graph keeps it. */
  write?: (fresh: string[]) => void;
}

/** The past as the host feeds it: the rows of the step. */
function addPast({ g, config }: Build, rows = "S"): Past {
  const { hiddenSize: D, heads: H } = config;
  const inputs = (name: (layer: number) => string) =>
    layerNames(config, name).map((n) => g.input(n, "float32", [rows, H, "P", D / H]));
  const mask = g.input(names.pastMask, "float32", ["S", 1, 1, "P"]);
  const all = g.input(names.begun, "float32", ["2L*S", H, "G", D / H]);
  const begun = g.nodes("Split", [all], 2 * config.layers, { axis: 0, num_outputs: 2 * config.layers });
  return { mask, keys: inputs(names.pastKey), values: inputs(names.pastValue), begun };
}

/** The past as webgpu-past.ts keeps it: all rows come in, some are read, all go out again. */
function addPastOnDevice(build: Build): Past {
  const { g, config } = build;
  const { hiddenSize: D, heads: H } = config;
  const { mask, keys, values, begun } = addPast(build, "R");
  const rows = g.input(names.pastRows, "int32", ["S"]);
  const read = (all: string) => g.node("Gather", [all, rows], { axis: 0 });
  const write = (fresh: string[]) => {
    const at = g.node("Cast", [g.input(names.writeAt, "int32", ["S", H, "T", 3])], { to: 7 });
    fresh.forEach((x, i) => {
      const all = i % 2 ? values[i >> 1] : keys[i >> 1];
      g.output(names.grown(i), g.node("ScatterND", [all, at, x]), "float32", ["R", H, "P", D / H]);
    });
  };
  return { mask, keys: keys.map(read), values: values.map(read), begun, write };
}

/**
 * Embeddings, blocks and the last layer norm. `hidden` is [N, D] at `headRows`, or [S × T, D] without; `fresh` holds keys,
 * then values, of each layer: 2L × [S, H, T, d].
 */
function addTrunk(build: Build, past: Past | null, headRows: string | null) {
  const { g, config } = build;
  const { hiddenSize: D, layers, heads: H } = config;
  const tokenIds = g.input(names.tokenIds, "int32", ["S", "T"]);
  const positions = g.input(names.positions, "int32", ["S", "T"]);
  const { embed, baseLogits } = addTokenEmbedding(build);
  const positionRows = g.node("Gather", [weight(build, "wpe.weight"), positions], { axis: 0 });
  const embedded = g.node("Add", [embed(tokenIds), positionRows]);
  const rowCount = g.node("Shape", [tokenIds], { start: 0, end: 1 }); // S
  const tokenCount = g.node("Shape", [tokenIds], { start: 1, end: 2 }); // T
  const shape = (...parts: string[]) => g.node("Concat", parts, { axis: 0 });
  const byPart = shape(rowCount, tokenCount, g.integers(3, H, D / H));
  const byHead = shape(g.integers(-1, H), tokenCount, g.integers(D / H));
  const attention = addAttention(build, past, rowCount, tokenCount);
  const fresh: string[] = [];
  let states = g.node("Reshape", [embedded, g.integers(-1, D)]); // [S × T, D] from here on
  let linear = linearLayers(build, states);

  for (let l = 0; l < layers; l++) {
    const normed = layerNorm(build, `h.${l}.ln_1`, states);
    const qkv = biased(g, linear(`h.${l}.attn.c_attn`, normed, { columns: D, by: Math.sqrt(H / D) }));
    const parts = g.node("Transpose", [g.node("Reshape", [qkv, byPart])], { perm: [2, 0, 3, 1, 4] }); // [3, S, H, T, d]
    const [q, k, v] = g.nodes("Split", [g.node("Reshape", [parts, byHead])], 3, { axis: 0, num_outputs: 3 });
    fresh.push(k, v);
    const mixed = g.node("Transpose", [attention(l, q, k, v)], { perm: [0, 2, 1, 3] });
    let flat = g.node("Reshape", [mixed, g.integers(-1, D)]);
    // Keys and values are all that other positions need of the last layer.
    if (headRows && l === layers - 1) {
      [flat, states] = [flat, states].map((x) => g.node("Gather", [x, headRows], { axis: 0 }));
      linear = linearLayers(build, states);
    }
    states = g.node("Add", [states, biased(g, linear(`h.${l}.attn.c_proj`, flat))]);

    const inner = linear(`h.${l}.mlp.c_fc`, layerNorm(build, `h.${l}.ln_2`, states));
    const activated = g.node("com.microsoft:FastGelu", inner.bias ? [inner.product, inner.bias] : [inner.product]); // the tanh form, GPT-2's gelu_new
    states = g.node("Add", [states, biased(g, linear(`h.${l}.mlp.c_proj`, activated))]);
  }
  return { hidden: layerNorm(build, "ln_f", states), fresh, baseLogits };
}

/**
 * Attention of queries [S, H, T, d], over the past where there is one and over the chunk: the step's own keys and values,
 * after what has begun of it. Its sum is one, so that a chunk gives the same bits wherever a step goes on with it.
 */
function addAttention(build: Build, past: Past | null, rowCount: string, tokenCount: string) {
  const { g } = build;
  const causalMask = g.input(names.causalMask, "float32", [1, 1, "T", past ? "G+T" : "T"]);
  if (!past) {
    return (_: number, q: string, k: string, v: string) => {
      const scores = g.node("Add", [products(build, q, k), causalMask]);
      return g.node("MatMul", [g.node("Softmax", [scores], { axis: -1 }), v]);
    };
  }
  const pastCount = g.node("Shape", [past.mask], { start: 3, end: 4 });
  const chunkCount = g.node("Shape", [causalMask], { start: 3, end: 4 }); // G + T
  const partLengths = g.node("Concat", [pastCount, chunkCount], { axis: 0 });
  const spread = (mask: string, columns: string) =>
    g.node("Expand", [mask, g.node("Concat", [rowCount, g.integers(1), tokenCount, columns], { axis: 0 })]);
  const mask = g.node("Concat", [spread(past.mask, pastCount), spread(causalMask, chunkCount)], { axis: -1 });
  return (l: number, q: string, k: string, v: string) => {
    const [keys, values] = [k, v].map((own, i) => g.node("Concat", [past.begun[2 * l + i], own], { axis: 2 }));
    const scores = g.node("Concat", [products(build, q, past.keys[l]), products(build, q, keys)], { axis: -1 });
    const weights = g.node("Softmax", [g.node("Add", [scores, mask])], { axis: -1 });
    const [toPast, toChunk] = g.nodes("Split", [weights, partLengths], 2, { axis: -1 });
    return g.node("Add", [g.node("MatMul", [toPast, past.values[l]]), g.node("MatMul", [toChunk, values])]);
  };
}

/** Q·Kᵀ. Only the CPU has the fused kernel; elsewhere it would pull the keys back to the CPU. */
function products({ g, device }: Build, q: string, k: string): string {
  if (device === "cpu") return g.node("com.microsoft:FusedMatMul", [q, k], { transB: 1 });
  return g.node("MatMul", [q, g.node("Transpose", [k], { perm: [0, 1, 3, 2] })]);
}

/** The tied matrix [V, D], once as the embedding of token ids and once as the head's x·Wᵀ. */
function addTokenEmbedding({ g, config, weights, format }: Build) {
  const { vocabularySize: V, hiddenSize: D } = config;
  const matrix = toFloat32(tensorOf(weights, "wte.weight"));
  if (format === "fp32") {
    const rows = g.constant(matrix, [V, D], "wte.weight");
    return {
      embed: (ids: string) => g.node("Gather", [rows, ids], { axis: 0 }),
      baseLogits: (hidden: string) => g.node("Gemm", [hidden, rows], { transB: 1 }),
    };
  }
  const turned = transpose(matrix, V, D); // [D, V]
  const embedding = quantizeColumns(turned, D, V);
  const rows = g.constant(transpose(embedding.values, D, V), [V, D], "wte.weight");
  const scales = g.constant(embedding.scales, [V, 1], "wte.scales");
  return {
    embed: (ids: string) => {
      const values = g.node("Cast", [g.node("Gather", [rows, ids], { axis: 0 })], { to: 1 });
      return g.node("Mul", [values, g.node("Gather", [scales, ids], { axis: 0 })]);
    },
    baseLogits: (hidden: string) =>
      format === "int8"
        ? addQuantizedMatMuls(g, hidden)(hidden, embedding)
        : addBlocks(g, hidden, turned, D, V, format),
  };
}

/** x·W, and what is still to be added to it: the next operator often adds a bias in passing. */
interface Linear {
  product: string;
  /** null where the product holds it. */
  bias: string | null;
}

/**
 * What adds x·W + b, for x of as many rows as `like` has. `scaled` multiplies the first `columns` outputs: 1/√d of the
 * attention's queries goes into their weights, which saves a pass over the scores.
 */
function linearLayers(build: Build, like: string) {
  const { g, weights, format } = build;
  const multiply = format === "int8" ? addQuantizedMatMuls(g, like) : null;
  return (name: string, x: string, scaled = { columns: 0, by: 1 }): Linear => {
    const tensor = tensorOf(weights, `${name}.weight`);
    const [rows, columns] = tensor.shape;
    const kernel = toFloat32(tensor);
    const shift = toFloat32(tensorOf(weights, `${name}.bias`));
    for (let j = 0; j < scaled.columns; j++) {
      shift[j] *= scaled.by;
      for (let i = 0; i < rows; i++) kernel[i * columns + j] *= scaled.by;
    }
    const bias = g.constant(shift, [columns], `${name}.bias`);
    if (format === "fp32") {
      return { product: g.node("Gemm", [x, g.constant(kernel, [rows, columns], `${name}.weight`), bias]), bias: null };
    }
    const product = multiply
      ? multiply(x, quantizeColumns(kernel, rows, columns))
      : addBlocks(g, x, kernel, rows, columns, format);
    return { product, bias };
  };
}

function biased(g: GraphBuilder, { product, bias }: Linear): string {
  return bias ? g.node("Add", [product, bias]) : product;
}

function addBlocks(
  g: GraphBuilder,
  x: string,
  matrix: Float32Array,
  rows: number,
  columns: number,
  format: WeightFormat,
): string {
  return addBlockMatMul(g, x, quantizeBlocks(matrix, rows, columns, format === "block4" ? 4 : 8));
}

function layerNorm(build: Build, name: string, x: string): string {
  const inputs = [x, weight(build, `${name}.weight`), weight(build, `${name}.bias`)];
  return build.g.node("LayerNormalization", inputs, { axis: -1, epsilon: { float: build.config.layerNormEpsilon } });
}

function weight({ g, weights }: Build, name: string): string {
  const tensor = tensorOf(weights, name);
  return g.constant(toFloat32(tensor), tensor.shape, name);
}

function layerNames(config: Gpt2Config, name: (layer: number) => string): string[] {
  return Array.from({ length: config.layers }, (_, l) => name(l));
}
