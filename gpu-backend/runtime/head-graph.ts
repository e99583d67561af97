/**
 * The head of the serving graph: from hidden states to what the sampler reads. Plain rows have one adapter (or none) and
 * give its logits. Mixed rows have several experts (the base, adapters, the pointer) and give likelihoods: the
 * mixture's probabilities, times what the request's bias makes of them.
 * Shapes: D hidden, V vocabulary, Q gates, M head rows, N plain rows, G mixed rows, J adapters of a mixed row,
 * P positions, K candidates, A entries of a bias.
 */
import type { HeadParts } from "./adapter-graph.ts";
import { addExpertProbabilities } from "./expert-graph.ts";
import type { GraphBuilder } from "./graph.ts";
import { names, type RowNames } from "./graph-names.ts";
import { addCosines, addPointer } from "./pointer-graph.ts";
import { type ModelShape, topCandidates } from "./step.ts";

/** A row padded to a multiple of this many floats begins where a vector does: AVX-512's, four at a time. */
const vectorFloats = 64;
/** Only -Infinity is less. */
const lowestFloat = -(2 - 2 ** -23) * 2 ** 127;

/** Plain rows: base logits plus the delta of the row's adapter. Row by row the same bits whatever else runs. */
export function addPlainHead({ g, config, bank, baseLogits }: HeadParts, hidden: string): void {
  const gates = g.input(names.plain.gates, "float32", ["N", bank?.gates ?? 0]);
  const offsets = g.input(names.plain.biasOffsets, "float32", ["A"]);
  const ranked = g.input(names.plain.ranked, "bool", []);
  addRows(g, config, { names: names.plain, count: "N", offsets, ranked }, hidden, (rows) => {
    let logits = baseLogits(rows);
    if (bank) logits = g.node("Gemm", [g.node("Mul", [bank.project(rows), gates]), bank.b, logits]);
    return logits;
  });
}

/**
 * Mixed rows: Σ weight · p over the base, J adapters and the pointer. Where the mixture is not wanted, the experts only score
 * the targets: that is how evidence is taken. Rows whose experts are kept are mixed later (`addMixture`), by weights that come
 * of that evidence. `keys` [M, D] are the head rows' pointer keys.
 */
export function addMixedHead(head: HeadParts, hidden: string, keys: string): void {
  const { g } = head;
  const targetIds = g.input(names.mixed.targetIds, "int32", ["G"]);
  const hasAdapters = g.input(names.mixed.hasAdapters, "bool", []);
  const experts = addExpertProbabilities(head, hidden, { targetIds, hasAdapters });
  addMixture(head, { ...experts, targetIds, hasAdapters, cosines: addCosines(head, keys) });
}

/** What is to be mixed. */
interface Mixture {
  base: string; // [G, V]
  adapters: string; // [G, J, V]
  hasAdapters: string;
  targetIds: string; // [G]
  /** Of each row's pointer key and those of its prompt, [G, P]. */
  cosines: string;
}

/** The mixture of the experts' probabilities and the pointer's. */
export function addMixture(
  { g, config, power }: Pick<HeadParts, "g" | "config" | "power">,
  { base, adapters, hasAdapters, targetIds, cosines }: Mixture,
): void {
  const { vocabularySize: V } = config;
  const { mixed } = names;
  const baseWeights = g.input(mixed.baseWeights, "float32", ["G", 1]);
  const adapterWeights = g.input(mixed.adapterWeights, "float32", ["G", 1, "J"]);
  const rowFactors = g.input(mixed.rowFactors, "float32", ["G", 1]);
  const attend = addPointer(g);
  addRows(g, config, { names: mixed, count: "G", targetIds, rowFactors, power }, null, () => {
    const { factors, ids, masses } = attend(cosines);
    const scaled = g.node("Mul", [adapterWeights, g.node("Unsqueeze", [factors, g.integers(1)])]);
    const ofBase = () => g.node("Mul", [base, g.node("Mul", [baseWeights, factors])]);
    const ofAdapters = () => g.node("Squeeze", [g.node("MatMul", [scaled, adapters]), g.integers(1)]);
    const [weighted] = g.when(
      hasAdapters,
      [{ type: "float32", shape: ["G", V] }],
      () => [g.node("Add", [ofBase(), ofAdapters()])],
      () => [ofBase()],
    );
    return g.node("ScatterElements", [weighted, ids, masses], { axis: 1, reduction: "add" });
  });
}

/** Rows of logits. */
interface LogitRows {
  names: RowNames;
  count: string;
  offsets: string; // [A]
  ranked: string; // []
}

/** Rows of likelihoods. */
interface LikelihoodRows {
  names: RowNames;
  count: string;
  targetIds: string; // [N]
  rowFactors: string; // [N, 1]
  power: HeadParts["power"];
}

/**
 * What the sampler reads of rows of scores [N, V]: single scores are changed (`LogitChanges`), the likeliest are ranked. Scores
 * are logits, or likelihoods: probabilities of a mixture, of which no operator takes the logarithm, because ONNX Runtime's
 * rounds a value in another way where more rows are computed. `scoresOf` gets the rows' hidden states, where `hidden` is given.
 */
function addRows(
  g: GraphBuilder,
  { vocabularySize: V }: ModelShape,
  kind: LogitRows | LikelihoodRows,
  hidden: string | null,
  scoresOf: (rows: string) => string,
): void {
  const { names: n, count: N } = kind;
  const likelihoods = "power" in kind ? kind : null;
  const K = Math.min(topCandidates, V);
  const outputs = [
    { name: n.topScores, type: "float32", shape: [N, "K"] },
    { name: n.topIds, type: "int32", shape: [N, "K"] },
    { name: n.topProbability, type: "float32", shape: [N, 1] },
    { name: n.scaledTopProbability, type: "float32", shape: [N, 1] },
    { name: n.targetScores, type: "float32", shape: [N] },
    { name: n.scores, type: "float32", shape: [N, V] },
  ] as const;
  const rows = hidden ? g.input(n.rows, "int32", [N]) : null;
  const wanted = g.input(n.wanted, "bool", []);
  const biasIndices = g.input(n.biasIndices, "int32", ["A", 2]);
  const biasPenalties = g.input(n.biasPenalties, "float32", ["A"]);
  const biasValues = g.input(n.biasValues, "float32", ["A"]);
  const inverseTemperatures = g.input(n.inverseTemperatures, "float32", [N]);
  const scaled = g.input(n.scaled, "bool", []);
  const targetIds = "targetIds" in kind ? kind.targetIds : g.input(n.targetIds, "int32", [N]);
  const ranking = { likelihoods, scaled, inverseTemperatures, vocabularySize: V, K };
  /** The first four outputs. */
  const likeliest = (scores: string) => {
    if ("power" in kind) return rankedScores(g, scores, ranking);
    return g.when(
      kind.ranked,
      outputs.slice(0, 4),
      () => rankedScores(g, scores, ranking),
      () => likeliestScore(g, scores),
    );
  };
  const values = g.when(wanted, outputs, () => {
    const adapted = scoresOf(rows && hidden ? g.node("Gather", [hidden, rows], { axis: 0 }) : "");
    const indices = g.node("Cast", [biasIndices], { to: 7 });
    const changes = { indices, penalties: biasPenalties, values: biasValues };
    const scores =
      "power" in kind ? changedLikelihoods(g, adapted, kind, changes) : changedLogits(g, adapted, kind, changes);
    const [topScores, topIds, topProbability, scaledTop] = likeliest(scores);
    const targets = g.node("Unsqueeze", [targetIds, g.integers(1)]);
    const targetScores = g.node("GatherElements", [scores, targets], { axis: 1 });
    return [topScores, topIds, topProbability, scaledTop, g.node("Squeeze", [targetScores, g.integers(1)]), scores];
  });
  outputs.forEach(({ name, type, shape }, i) => {
    g.output(name, values[i], type, shape);
  });
}

/** The K likeliest tokens of each row, their scores, and the probability of the likeliest, at temperature 1 and at the row's. */
function rankedScores(
  g: GraphBuilder,
  scores: string,
  {
    likelihoods,
    scaled,
    inverseTemperatures,
    vocabularySize: V,
    K,
  }: {
    likelihoods: LikelihoodRows | null;
    scaled: string;
    inverseTemperatures: string;
    vocabularySize: number;
    K: number;
  },
): string[] {
  const [topScores, topIds] = g.nodes("TopK", [scores, g.integers(K)], 2, { axis: -1, largest: 1, sorted: 1 });
  const top = (x: string) => g.node("Slice", [x, g.integers(0), g.integers(1), g.integers(1)]); // [N, 1]
  const topProbability = (x: string) =>
    likelihoods
      ? g.node("Div", [top(topScores), rowSums(g, x, V)])
      : g.node("GatherElements", [g.node("Softmax", [x], { axis: -1 }), top(topIds)], { axis: 1 });
  const [scaledTop] = g.when(scaled, [{ type: "float32", shape: ["N", 1] }], () => {
    const column = g.node("Unsqueeze", [inverseTemperatures, g.integers(1)]);
    if (!likelihoods) return [topProbability(g.node("Mul", [scores, column]))];
    // The likeliest is 1, so that no power of the others is too large or all are too small.
    const relative = likelihoods.power(g.node("Div", [scores, top(topScores)]), column);
    return [g.node("Div", [g.scalar(1), rowSums(g, relative, V)])];
  });
  return [topScores, g.node("Cast", [topIds], { to: 6 }), topProbability(scores), scaledTop];
}

/**
 * Of each row the likeliest token alone, the same as `rankedScores` finds. Instead of its probability, which takes a softmax
 * over the vocabulary, 1 comes out, or NaN where a softmax over the scores would be: a score of -Infinity is a probability of 0.
 */
function likeliestScore(g: GraphBuilder, scores: string): string[] {
  const top = g.node("ArgMax", [scores], { axis: -1, keepdims: 1 }); // [N, 1]
  const sum = g.node("ReduceSum", [scores, g.integers(1)], { keepdims: 1 });
  const oneIfFinite = g.node("Add", [g.node("Mul", [sum, g.scalar(0)]), g.scalar(1)]);
  // Not IsInf, of which WebGPU has no kernel.
  const isLowest = g.node("Less", [sum, g.scalar(lowestFloat)]);
  const one = g.node("Where", [isLowest, g.scalar(1), oneIfFinite]);
  const score = g.node("GatherElements", [scores, top], { axis: 1 });
  return [score, g.node("Cast", [top], { to: 6 }), one, g.node("Identity", [one])];
}

/** Of A scores each. */
interface GraphChanges {
  indices: string; // [A, 2]
  penalties: string; // [A]
  values: string; // [A]
}

/** Exact operations on A values, which cost next to nothing where A is small: so rows that ask for nothing have no other branch. */
function changedLogits(
  g: GraphBuilder,
  logits: string,
  { offsets }: LogitRows,
  { indices, penalties, values }: GraphChanges,
): string {
  const x = g.node("Add", [g.node("GatherND", [logits, indices]), offsets]);
  const isPositive = g.node("Greater", [x, g.scalar(0)]);
  const own = g.node("Where", [isPositive, g.node("Div", [x, penalties]), g.node("Mul", [x, penalties])]);
  return g.node("ScatterND", [logits, indices, g.node("Add", [own, values])]);
}

/** Likelihoods times their row's factor; those that are named to the power of their penalty, times a factor of their own. */
function changedLikelihoods(
  g: GraphBuilder,
  p: string,
  { rowFactors, power }: LikelihoodRows,
  { indices, penalties, values }: GraphChanges,
): string {
  const x = g.node("GatherND", [p, indices]);
  // A power of 1 may be rounded, too.
  const isNone = g.node("Equal", [penalties, g.scalar(1)]);
  const own = g.node("Mul", [g.node("Where", [isNone, x, power(x, penalties)]), values]);
  return g.node("ScatterND", [g.node("Mul", [p, rowFactors]), indices, own]);
}

/** Sums [N, 1] of x [N, V]. A row begins where it would alone, to the bytes of a vector, so that it is summed in the same order. */
function rowSums(g: GraphBuilder, x: string, V: number): string {
  const padding = (vectorFloats - (V % vectorFloats)) % vectorFloats;
  const padded = padding > 0 ? g.node("Pad", [x, g.integers(0, 0, 0, padding)]) : x;
  return g.node("ReduceSum", [padded, g.integers(1)], { keepdims: 1 });
}
