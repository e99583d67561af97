/**
 * GPT-2 as ONNX graphs, from Hugging Face weights: the serving graph (trunk and head) and the trunk alone. Attention is in
 * attention-graph.ts, the head in head-graph.ts. "Split" KV: the past is a read-only input, only the new keys and values come out.
 * Source of the model: Radford et al. 2019; of the delta: arXiv 2502.04315, eq. for the adapted LM head.
 */

import { type TensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { addAttention, type Past, pastInputs, splitPast } from "./attention-graph.ts";
import { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import { addHead } from "./head-graph.ts";
import type { ModelConfig } from "./model-config.ts";
import { addBlockMatMul, addQuantizedMatMuls, blockRows, quantizeBlocks, quantizeColumns } from "./quantizer.ts";
import type { Device } from "./session.ts";
import type { Bank } from "./step.ts";
import { transpose } from "./transpose.ts";

/** How the trunk's matrices and the head are stored; the delta is fp32 in all. */
export const weightFormats = ["fp32", "int8", "block8", "block4"] as const;
export type WeightFormat = (typeof weightFormats)[number];
/** Bytes of one weight of a matrix, its share of a scale included. */
export const bytesPerWeight: Record<WeightFormat, number> = {
  fp32: 4,
  int8: 1,
  block8: 1 + 4 / 32,
  block4: 0.5 + 4 / 32,
};

/** The formats that a model of this shape can be stored in, fp32 first. */
export function formatsFor({ hiddenSize }: ModelConfig): WeightFormat[] {
  return weightFormats.filter((format) => !format.startsWith("block") || hiddenSize % blockRows === 0);
}

/** What a graph is made from and into. */
interface Build {
  g: GraphBuilder;
  config: ModelConfig;
  weights: TensorFile;
  format: WeightFormat;
  device: Device;
}

/**
 * The graph that serves. The trunk runs where the step has tokens (`wants_trunk`), the head on positions of this step
 * (`head_rows`) and on states of earlier ones that the host feeds again (`fed_states`).
 */
export function buildServingGraph(
  config: ModelConfig,
  weights: TensorFile,
  bank: Bank,
  options: { format: WeightFormat; device: Device },
): Uint8Array {
  const { format, device } = options;
  const { hiddenSize: D, kvHeads: H, headWidth: d } = config;
  const g = new GraphBuilder("gpt2-serving");
  const build: Build = { g, config, weights, format, device };
  const embedding = addTokenEmbedding(build);
  const { present, states } = addServingTrunk(build, embedding);
  g.output(names.present, present, "float32", ["2L*S", H, "T", d]);
  g.output(names.states, states, "float32", ["S*T", D]);
  const here = g.node("Gather", [states, g.input(names.headRows, "int32", ["K"])], { axis: 0 });
  const headStates = g.node("Concat", [here, g.input(names.fedStates, "float32", ["X", D])], { axis: 0 });
  const [hidden] = g.when(g.input(names.wantsHidden, "bool", []), [{ type: "float32", shape: ["M", D] }], () => [
    addLastFeedForward(build, headStates),
  ]);
  g.output(names.hidden, hidden, "float32", ["M", D]);
  addHead({ g, config, bank, baseLogits: embedding.baseLogits }, hidden);
  return g.bytes();
}

/** The trunk without a past and without a head, for training: token ids [S, T] → hidden states [S × T, D]. */
export function buildTrunkGraph(config: ModelConfig, weights: TensorFile): Uint8Array {
  const g = new GraphBuilder("gpt2-trunk");
  const build: Build = { g, config, weights, format: "fp32", device: "cpu" };
  const { states } = addTrunk(build, tokenInputs(build), null, addTokenEmbedding(build));
  g.output(names.hidden, addLastFeedForward(build, states), "float32", ["S*T", config.hiddenSize]);
  return g.bytes();
}

/** New keys and values, and states, of a step that may have no tokens: then both are empty. */
function addServingTrunk(build: Build, embedding: Embedding) {
  const { g, config } = build;
  const { hiddenSize: D, kvHeads: H, headWidth: d } = config;
  const inputs = tokenInputs(build);
  const past = pastInputs(build);
  const outputs = [
    { type: "float32", shape: ["2L*S", H, "T", d] },
    { type: "float32", shape: ["S*T", D] },
  ] as const;
  const [present, states] = g.when(g.input(names.wantsTrunk, "bool", []), outputs, () => {
    const trunk = addTrunk(build, inputs, splitPast(build, past), embedding);
    return [g.node("Concat", trunk.fresh, { axis: 0 }), trunk.states];
  });
  return { present, states };
}

interface TokenInputs {
  tokenIds: string; // [S, T]
  positions: string; // [S, T]
  /** (S, T) */
  shape: string;
}

function tokenInputs({ g }: Build): TokenInputs {
  const tokenIds = g.input(names.tokenIds, "int32", ["S", "T"]);
  return { tokenIds, positions: g.input(names.positions, "int32", ["S", "T"]), shape: g.node("Shape", [tokenIds]) };
}

interface Trunk {
  /** Before the last block's feed-forward part, [S × T, D]. */
  states: string;
  /** Keys, then values, of each layer: 2L × [S, H, T, d]. */
  fresh: string[];
}

/** Embeddings and blocks, but for the last block's feed-forward part: of that, only rows with a head are computed. */
function addTrunk(
  build: Build,
  { tokenIds, positions, shape: stepShape }: TokenInputs,
  past: Past | null,
  { embed }: Embedding,
): Trunk {
  const { g, config } = build;
  const { hiddenSize: D, layers, heads: H } = config;
  const positionRows = g.node("Gather", [weight(build, "wpe.weight"), positions], { axis: 0 });
  const embedded = g.node("Add", [embed(tokenIds), positionRows]);
  const rowCount = g.node("Slice", [stepShape, g.integers(0), g.integers(1)]); // S
  const tokenCount = g.node("Slice", [stepShape, g.integers(1), g.integers(2)]); // T
  const attention = addAttention(build, past, rowCount, tokenCount);
  const fresh: string[] = [];
  let states = g.node("Reshape", [embedded, g.integers(-1, D)]); // [S × T, D] from here on
  const linear = linearLayers(build, states);

  for (let l = 0; l < layers; l++) {
    const normed = layerNorm(build, `h.${l}.ln_1`, states);
    const qkv = biased(g, linear(`h.${l}.attn.c_attn`, normed, { columns: D, by: Math.sqrt(H / D) }));
    const [attended, k, v] = attention(l, qkv);
    fresh.push(k, v);
    states = g.node("Add", [states, biased(g, linear(`h.${l}.attn.c_proj`, attended))]);
    if (l < layers - 1) states = addFeedForward(build, l, states, linear);
  }
  return { states, fresh };
}

/** The feed-forward part of block l. */
function addFeedForward(build: Build, l: number, states: string, linear: ReturnType<typeof linearLayers>): string {
  const { g } = build;
  const inner = linear(`h.${l}.mlp.c_fc`, layerNorm(build, `h.${l}.ln_2`, states));
  const activated = g.node("com.microsoft:FastGelu", inner.bias ? [inner.product, inner.bias] : [inner.product]); // the tanh form, GPT-2's gelu_new
  return g.node("Add", [states, biased(g, linear(`h.${l}.mlp.c_proj`, activated))]);
}

/** What is left of the trunk for rows with a head: the last feed-forward part and the last layer norm. */
function addLastFeedForward(build: Build, states: string): string {
  const l = build.config.layers - 1;
  return layerNorm(build, "ln_f", addFeedForward(build, l, states, linearLayers(build, states)));
}

interface Embedding {
  /** [S, T, D] of token ids [S, T] */
  embed(ids: string): string;
  /** [N, V] of hidden states [N, D] */
  baseLogits(hidden: string): string;
}

/** The tied matrix [V, D], once as the embedding of token ids and once as the head's x·Wᵀ. */
function addTokenEmbedding({ g, config, weights, format }: Build): Embedding {
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
  return build.g.node("LayerNormalization", inputs, { axis: -1, epsilon: { float: build.config.normEpsilon } });
}

function weight({ g, weights }: Build, name: string): string {
  const tensor = tensorOf(weights, name);
  return g.constant(toFloat32(tensor), tensor.shape, name);
}
