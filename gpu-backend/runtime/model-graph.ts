/** The past is a read-only input; the graph outputs only new keys and values. Adapters are in head-graph.ts (arXiv 2502.04315). */
import { type Attention, addAttention, pastInputs, type StepTokens, type Target } from "./attention-graph.ts";
import { type ConstantFile, GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import { addHead } from "./head-graph.ts";
import type { ModelConfig } from "./model-config.ts";
import { floatsOf, type ModelWeights, weightOf } from "./model-weights.ts";
import {
  type AddProduct,
  addEmbedding,
  addProducts,
  biased,
  type Embedding,
  type ProductTarget,
  type WeightFormat,
} from "./products.ts";
import { addRotaryTables } from "./rotary.ts";
import type { Bank, KvFormat } from "./step.ts";

export interface Build extends Target {
  config: ModelConfig;
  weights: ModelWeights;
  format: WeightFormat;
  isOnDevice?: boolean;
  observe?: ProductTarget["observe"];
}

type BuildOptions = Pick<Build, "config" | "weights" | "format" | "kv" | "isOnDevice"> & { file?: ConstantFile };

export function startBuild(name: string, { config, weights, file, ...rest }: BuildOptions): Build {
  const g = new GraphBuilder(name, file);
  const { positions } = config;
  const rotary = positions === "learned" ? null : addRotaryTables(g, config, positions, weights);
  return { g, config, weights, rotary, ...rest };
}

/** The head runs on positions of this step (`head_rows`) and on states of earlier steps (`fed_states`). */
export function buildServingGraph(
  config: ModelConfig,
  weights: ModelWeights,
  bank: Bank,
  options: { format: WeightFormat; kv?: KvFormat; file?: ConstantFile },
): Uint8Array {
  const { hiddenSize: D, kvHeads: K, headWidth: d } = config;
  const build = startBuild("serving", { kv: "fp32", config, weights, ...options });
  const { g } = build;
  const embedding = addEmbedding(build);
  const { present, states } = addServingTrunk(build, embedding);
  g.output(names.present, present, "float32", ["2L*S", K, "T", d]);
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

/** Token ids [S, T] → states before the last feed-forward part and hidden states, both [S × T, D]. `withSquares`: for calibration. */
export function buildTrunkGraph(
  config: ModelConfig,
  weights: ModelWeights,
  { format = "fp32", withSquares = false }: { format?: WeightFormat; withSquares?: boolean } = {},
): Uint8Array {
  const build = startBuild("trunk", { config, weights, format, kv: "fp32" });
  if (withSquares) {
    build.observe = (name, x) => {
      const squares = build.g.node("ReduceSumSquare", [x, build.g.integers(0)], { keepdims: 0 });
      build.g.output(names.inputSquares(name), squares, "float32", ["in"]);
    };
  }
  const { g } = build;
  const { tokenIds, positions, shape } = tokenInputs(build);
  const attention = addAttention(build, null, stepTokens(build, positions, shape));
  const { states } = addTrunk(build, tokenIds, positions, attention, addEmbedding(build));
  g.output(names.states, states, "float32", ["S*T", config.hiddenSize]);
  g.output(names.hidden, addLastFeedForward(build, states), "float32", ["S*T", config.hiddenSize]);
  return g.bytes();
}

/** Returns keys, values and states of the step, all empty for a step without tokens. */
function addServingTrunk(build: Build, embedding: Embedding) {
  const { g, config } = build;
  const { hiddenSize: D, kvHeads: K, headWidth: d } = config;
  const { tokenIds, positions, shape } = tokenInputs(build);
  const { begun, ...past } = pastInputs(build);
  const outputs = [
    { type: "float32", shape: ["2L*S", K, "T", d] },
    { type: "float32", shape: ["S*T", D] },
  ] as const;
  const [present, states] = g.when(g.input(names.wantsTrunk, "bool", []), outputs, () => {
    const parts = 2 * config.layers;
    const split = g.nodes("Split", [begun], parts, { axis: 0, num_outputs: parts });
    const attention = addAttention(build, { ...past, begun: split }, stepTokens(build, positions, shape));
    const trunk = addTrunk(build, tokenIds, positions, attention, embedding);
    return [g.node("Concat", trunk.fresh, { axis: 0 }), trunk.states];
  });
  return { present, states };
}

function tokenInputs({ g }: Build) {
  const tokenIds = g.input(names.tokenIds, "int32", ["S", "T"]);
  return { tokenIds, positions: g.input(names.positions, "int32", ["S", "T"]), shape: g.node("Shape", [tokenIds]) };
}

function stepTokens({ g }: Build, positions: string, shape: string): StepTokens {
  const rowCount = g.node("Slice", [shape, g.integers(0), g.integers(1)]); // S
  const tokenCount = g.node("Slice", [shape, g.integers(1), g.integers(2)]); // T
  return { positions, rowCount, tokenCount };
}

/**
 * Omits the last block's feed-forward part, which is computed only at the head's positions. Returns the input of that part, [S × T, D],
 * and the keys, then values, that `attention` returns for each layer.
 */
export function addTrunk(
  build: Build,
  tokenIds: string,
  positions: string,
  attention: Attention,
  { embed }: Pick<Embedding, "embed">,
): { states: string; fresh: string[] } {
  const { g, config } = build;
  const { hiddenSize: D, layers } = config;
  let embedded = embed(tokenIds); // [S, T, D]
  if (config.positions === "learned") {
    const rows = g.node("Gather", [weight(build, "model.embed_positions.weight"), positions], { axis: 0 });
    embedded = g.node("Add", [embedded, rows]);
  }
  const fresh: string[] = [];
  let states = g.node("Reshape", [embedded, g.integers(-1, D)]); // [S × T, D] from here on
  const product = addProducts(build);

  for (let l = 0; l < layers; l++) {
    const normed = addNorm(build, `${block(l)}.input_layernorm`, states);
    const [attended, k, v] = attention(l, addQueriesKeysValues(build, l, normed, product));
    fresh.push(k, v);
    states = g.node("Add", [states, biased(g, product([`${block(l)}.self_attn.o_proj`], attended))]);
    if (l < layers - 1) states = addFeedForward(build, l, states, product);
  }
  return { states, fresh };
}

/** Returns one value, [M, (H + 2K) · d]. */
function addQueriesKeysValues(build: Build, l: number, normed: string, product: AddProduct): string {
  const { g, config } = build;
  const { heads: H, kvHeads: K, headWidth: d } = config;
  const stems = ["q", "k", "v"].map((part) => `${block(l)}.self_attn.${part}_proj`);
  const scaled = config.positions === "learned" ? { rows: H * d, by: 1 / Math.sqrt(d) } : undefined;
  const qkv = biased(g, product(stems, normed, scaled));
  if (!config.queryKeyNorm) return qkv;
  const heads = g.node("Reshape", [qkv, g.integers(-1, H + 2 * K, d)]);
  const [q, k, v] = g.nodes("Split", [heads, g.integers(H, K, K)], 3, { axis: 1 });
  const ofHeads = [
    addNorm(build, `${block(l)}.self_attn.q_norm`, q),
    addNorm(build, `${block(l)}.self_attn.k_norm`, k),
    v,
  ];
  return g.node("Reshape", [g.node("Concat", ofHeads, { axis: 1 }), g.integers(-1, (H + 2 * K) * d)]);
}

function addFeedForward(build: Build, l: number, states: string, product: AddProduct): string {
  const { g } = build;
  const normed = addNorm(build, `${block(l)}.post_attention_layernorm`, states);
  const [gate, up, down] = ["gate", "up", "down"].map((part) => `${block(l)}.mlp.${part}_proj`);
  const activated = () => {
    if (build.config.activation === "gelu") {
      const inner = product([up], normed);
      return g.node("com.microsoft:FastGelu", inner.bias ? [inner.product, inner.bias] : [inner.product]);
    }
    const both = biased(g, product([gate, up], normed));
    const [gates, values] = g.nodes("Split", [both], 2, { axis: 1, num_outputs: 2 });
    return g.node("Mul", [g.node("com.microsoft:QuickGelu", [gates], { alpha: { float: 1 } }), values]);
  };
  return g.node("Add", [states, biased(g, product([down], activated()))]);
}

export function addLastFeedForward(build: Build, states: string): string {
  const last = addFeedForward(build, build.config.layers - 1, states, addProducts(build));
  return addNorm(build, "model.norm", last);
}

const block = (l: number) => `model.layers.${l}`;

function addNorm(build: Build, name: string, x: string): string {
  const { norm, normEpsilon } = build.config;
  const attributes = { axis: -1, epsilon: { float: normEpsilon } };
  const gain = weight(build, `${name}.weight`);
  if (norm === "rms") return build.g.node("SimplifiedLayerNormalization", [x, gain], attributes);
  return build.g.node("LayerNormalization", [x, gain, weight(build, `${name}.bias`)], attributes);
}

function weight({ g, weights }: Build, name: string): string {
  const found = weightOf(weights, name);
  return g.constant(floatsOf(found), found.shape, name);
}
