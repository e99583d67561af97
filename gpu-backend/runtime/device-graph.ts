/**
 * Builds the graphs of a runner whose keys, values and states stay on a device. Every node must have a WebGPU kernel. WebGPU has no Cast
 * to int64, so int64 indexes are inputs. Nodes that compute shapes run on the CPU, so shapes are inputs. A Reshape or Squeeze has no
 * kernel, so neither makes an output.
 * Shapes: S rows, T tokens, H heads of queries, K heads of keys and values, d head width, P positions that a row has room for, X
 * positions of all rows, M positions that the head is computed at, N rows of the head, V vocabulary, D hidden, Q gates, A changed logits,
 * E own adapters, U own adapters that a row uses at most.
 */
import { ownRank } from "../../shared/artifacts/limits.ts";
import type { Attention } from "./attention-graph.ts";
import { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import { addBank, changedLogits } from "./head-graph.ts";
import type { ModelConfig } from "./model-config.ts";
import { addLastFeedForward, addTrunk, type Build, startBuild } from "./model-graph.ts";
import { isBlockType, type ModelWeights, weightOf } from "./model-weights.ts";
import { addEmbedding, type WeightFormat } from "./products.ts";
import { type Bank, topCandidates } from "./step.ts";

/** The trunk appends keys and values of S × T tokens to their rows, and writes the tokens' states at `states_at`. */
export function buildDeviceTrunk(config: ModelConfig, weights: ModelWeights, format: WeightFormat): Uint8Array {
  const { vocabularySize: V, hiddenSize: D } = config;
  const build = startBuild("trunk", { config, weights, format, kv: "fp32", isOnDevice: true });
  const { g } = build;
  const embedding = isEmbeddingFed(weights, format) ? g.input(names.embedding, "float32", [V, D]) : null;
  const { embed } = embedding
    ? { embed: (ids: string) => toTrunk(build, g.node("Gather", [embedding, ids], { axis: 0 })) }
    : addEmbedding(build);
  const tokenIds = g.input(names.tokenIds, "int32", ["S", "T"]);
  const positions = config.positions === "learned" ? g.input(names.positions, "int32", ["S", "T"]) : "";
  const attention = addAttentionInPlace(build);
  const trunk = inTrunk(build, () => addTrunk(build, tokenIds, positions, attention, { embed }));
  trunk.fresh.forEach((grown, i) => {
    g.output(names.grown(i), grown, trunkType(format), ["S", config.kvHeads, "P", config.headWidth]);
  });
  const states = toFloat32(build, trunk.states);
  const kept = g.input(names.keptStates, "float32", ["X", D]);
  const at = g.input(names.statesAt, "int64", ["S*T", 1]);
  g.output(names.grownStates, g.node("ScatterND", [kept, at, states]), "float32", ["X", D]);
  const magnitudes = g.node("ReduceSum", [g.node("Abs", [states]), g.integers(1)], { keepdims: 0 });
  g.output(names.magnitudes, magnitudes, "float32", ["S*T"]);
  return g.bytes();
}

/** Whether trunk and head read the embedding from one buffer, as float32. Otherwise each graph has its blocks. */
export function isEmbeddingFed(weights: ModelWeights, format: WeightFormat): boolean {
  return format !== "exact" || !isBlockType(weightOf(weights, "model.embed_tokens.weight").dtype);
}

/** States and hidden states are always float32. */
const trunkType = (format: WeightFormat) => (format === "fp16" ? "float16" : "float32");

/** Float constants that `make` adds get the trunk's type. */
function inTrunk<T>({ g, format }: Build, make: () => T): T {
  return format === "fp16" ? g.inHalf(make) : make();
}

const toTrunk = ({ g, format }: Build, x: string) => (format === "fp16" ? g.node("Cast", [x], { to: 10 }) : x);
const toFloat32 = ({ g, format }: Build, x: string) => (format === "fp16" ? g.node("Cast", [x], { to: 1 }) : x);

/** The attention operator also rotates queries and keys and appends keys and values. For T > 1 it takes one row. */
function addAttentionInPlace(build: Build): Attention {
  const { g, config, rotary, format } = build;
  const { heads: H, kvHeads: K, headWidth: d, layers } = config;
  const shape = g.input(names.packedShape, "int64", [3]);
  const last = g.input(names.lastPositions, "int32", ["S"]);
  const longest = g.input(names.longest, "int32", [1]);
  const kept = Array.from({ length: 2 * layers }, (_, i) =>
    g.input(names.kept(i), trunkType(format), ["S", K, "P", d]),
  );
  const scale = { float: rotary ? 1 / Math.sqrt(d) : 1 };
  const attributes = { num_heads: H, kv_num_heads: K, do_rotary: rotary ? 1 : 0, scale };
  const turning = rotary ? [rotary.cosines, rotary.sines].map((table) => toTrunk(build, table)) : [];
  return (l, qkv) => {
    const packed = [g.node("Reshape", [qkv, shape]), "", ""];
    const inputs = [...packed, kept[2 * l], kept[2 * l + 1], last, longest, ...turning];
    const [result, ...grown] = g.nodes("com.microsoft:GroupQueryAttention", inputs, 3, attributes);
    return [g.node("Reshape", [result, g.integers(-1, H * d)]), ...grown];
  };
}

/** The head reads the states at `states_at`. `hasOwn`: rows may have tenants' own adapters. */
export function buildDeviceHead(
  config: ModelConfig,
  weights: ModelWeights,
  { bank, hasOwn, format }: { bank: Bank; hasOwn: boolean; format: WeightFormat },
): Uint8Array {
  const { vocabularySize: V, hiddenSize: D } = config;
  const build = startBuild("head", { config, weights, format, kv: "fp32", isOnDevice: true });
  const { g } = build;
  const states = g.input(names.keptStates, "float32", ["X", D]);
  const here = g.node("Gather", [states, g.input(names.statesAt, "int32", ["M"])], { axis: 0 });
  const hidden = toFloat32(
    build,
    inTrunk(build, () => addLastFeedForward(build, toTrunk(build, here))),
  );
  g.output(names.hidden, hidden, "float32", ["M", D]);
  const ofRows = g.node("Gather", [hidden, g.input(names.rows, "int32", ["N"])], { axis: 0 });
  const gates = bank.gates > 0 ? g.input(names.gates, "float32", ["N", bank.gates]) : "";
  const adapted = addBank(g, config, bank)(ofRows, gates);
  const changed = hasOwn ? g.node("Add", [adapted, addOwn(g, D, ofRows)]) : adapted;
  const logits =
    config.tiedHead && isEmbeddingFed(weights, format)
      ? g.node("Gemm", [changed, g.input(names.embedding, "float32", [V, D])], { transB: 1 })
      : addEmbedding(build).baseLogits(changed);
  const scores = changedLogits(g, logits, {
    indices: g.input(names.biasIndices, "int64", ["A", 2]),
    penalties: g.input(names.biasPenalties, "float32", ["A"]),
    values: g.input(names.biasValues, "float32", ["A"]),
  });
  g.output(names.scores, scores, "float32", ["N", V]);
  const targets = g.node("GatherElements", [scores, g.input(names.targetIds, "int32", ["N", 1])], { axis: 1 });
  g.output(names.targetScores, targets, "float32", ["N", 1]);
  const K = Math.min(topCandidates, V);
  const [topScores, topIds] = g.nodes("TopK", [scores, g.integers(K)], 2, { axis: -1, largest: 1, sorted: 1 });
  g.output(names.topScores, topScores, "float32", ["N", K]);
  g.output(names.topIds, topIds, "int64", ["N", K]);
  const greatest = (x: string) =>
    g.node("ReduceMax", [g.node("Softmax", [x], { axis: -1 }), g.integers(1)], { keepdims: 1 });
  const inverse = g.input(names.inverseTemperatures, "float32", ["N", 1]);
  g.output(names.topProbability, greatest(scores), "float32", ["N", 1]);
  g.output(names.scaledTopProbability, greatest(g.node("Mul", [scores, inverse])), "float32", ["N", 1]);
  return g.bytes();
}

/** Sum of w·(B(A·h) + c) over each row's own adapters, [N, D]. A row without own adapters uses an adapter of zeros with weight 0. */
function addOwn(g: GraphBuilder, D: number, states: string): string {
  const indexes = g.input(names.ownIndexes, "int32", ["N", "U"]);
  const weights = g.input(names.ownWeights, "float32", ["N", "U", 1, 1]);
  const a = g.input(names.ownA, "float32", ["E", D, ownRank]);
  const b = g.input(names.ownB, "float32", ["E", ownRank + 1, D]);
  const apart = g.node("Unsqueeze", [states, g.integers(1, 2)]); // [N, 1, 1, D]
  const inner = g.node("MatMul", [apart, g.node("Gather", [a, indexes], { axis: 0 })]); // [N, U, 1, R]
  const weighted = g.node("Concat", [g.node("Mul", [inner, weights]), weights], { axis: 3 }); // [N, U, 1, R + 1]
  const changes = g.node("MatMul", [weighted, g.node("Gather", [b, indexes], { axis: 0 })]); // [N, U, 1, D]
  return g.node("ReduceSum", [changes, g.integers(1, 2)], { keepdims: 0 });
}

/** The graph fills y [n] with x [n], or with the only element of x. */
export function buildFill(): Uint8Array {
  const g = new GraphBuilder("fill");
  const shape = g.input("shape", "int64", [1]);
  g.output("y", g.node("Expand", [g.input("x", "float32", ["m"]), shape]), "float32", ["n"]);
  return g.bytes();
}

/** The graph copies rows `from` [n] of x [m, w] to y [n, w]. */
export function buildRead(): Uint8Array {
  const g = new GraphBuilder("read");
  const x = g.input("x", "float32", ["m", "w"]);
  g.output("y", g.node("Gather", [x, g.input("from", "int32", ["n"])], { axis: 0 }), "float32", ["n", "w"]);
  return g.bytes();
}

/**
 * The graph copies rows `from` [n] of x [k, w] to rows `to` [n, 1] of y [m, w], for `arrays` pairs of x and y. Values of any type are copied
 * as integers, because a device may change the bits of floats.
 */
export function buildCopy(arrays: number): Uint8Array {
  const g = new GraphBuilder("copy");
  const [from, to] = [g.input("from", "int32", ["n"]), g.input("to", "int64", ["n", 1])];
  for (let i = 0; i < arrays; i++) {
    const read = g.node("Gather", [g.input(`x.${i}`, "int32", ["k", "w"]), from], { axis: 0 });
    const kept = g.input(names.kept(i), "int32", ["m", "w"]);
    g.output(names.grown(i), g.node("ScatterND", [kept, to, read]), "int32", ["m", "w"]);
  }
  return g.bytes();
}
