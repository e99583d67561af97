/**
 * Adapters change a row's hidden state, then the base's head computes the logits. A mixture of adapters is one adapter with averaged
 * gates. A row's bits do not depend on other rows.
 * Shapes: D hidden, V vocabulary, Q gates, N rows, K candidates, A changed logits; E own adapters of rank R; X rows with own adapters, at
 * most P each.
 */
import { ownRank } from "../../shared/artifacts/limits.ts";
import type { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import type { Embedding } from "./products.ts";
import { type Bank, type ModelShape, topCandidates } from "./step.ts";

const lowestFloat = -(2 - 2 ** -23) * 2 ** 127;

/** Applies adapters, changes single logits (`LogitChanges`) and ranks the likeliest tokens of each row. */
export function addHead(
  { g, config, bank, baseLogits }: { g: GraphBuilder; config: ModelShape; bank: Bank } & Pick<Embedding, "baseLogits">,
  hidden: string,
): void {
  const { vocabularySize: V } = config;
  const adapt = addBank(g, config, bank);
  const outputs = [
    { name: names.topScores, type: "float32", shape: ["N", "K"] },
    { name: names.topIds, type: "int32", shape: ["N", "K"] },
    { name: names.topProbability, type: "float32", shape: ["N", 1] },
    { name: names.scaledTopProbability, type: "float32", shape: ["N", 1] },
    { name: names.targetScores, type: "float32", shape: ["N"] },
    { name: names.scores, type: "float32", shape: ["N", V] },
  ] as const;
  const rows = g.input(names.rows, "int32", ["N"]);
  const gates = g.input(names.gates, "float32", ["N", bank.gates]);
  const own = ownInputs(g, config);
  const changes = {
    indices: g.node("Cast", [g.input(names.biasIndices, "int32", ["A", 2])], { to: 7 }),
    penalties: g.input(names.biasPenalties, "float32", ["A"]),
    values: g.input(names.biasValues, "float32", ["A"]),
  };
  const inverseTemperatures = g.input(names.inverseTemperatures, "float32", ["N"]);
  const targetIds = g.input(names.targetIds, "int32", ["N"]);
  const [wanted, ranked, summed, scaled] = [names.wanted, names.ranked, names.summed, names.scaled].map((name) =>
    g.input(name, "bool", []),
  );
  const values = g.when(wanted, outputs, () => {
    const states = g.node("Gather", [hidden, rows], { axis: 0 });
    const scores = changedLogits(g, baseLogits(withOwn(g, config, own, states, adapt(states, gates))), changes);
    const targets = g.node("Unsqueeze", [targetIds, g.integers(1)]); // [N, 1]
    const targetScores = g.node("GatherElements", [scores, targets], { axis: 1 }); // [N, 1]
    const top = outputs.slice(0, 4);
    const [topScores, topIds, topProbability, scaledTop] = g.when(
      ranked,
      top,
      () => rankedScores(g, scores, { scaled, inverseTemperatures, K: Math.min(topCandidates, V) }),
      () =>
        g.when(
          summed,
          top,
          () => rankedScores(g, scores, { scaled, inverseTemperatures, K: 1 }),
          () => likeliestScore(g, scores),
        ),
    );
    return [topScores, topIds, topProbability, scaledTop, g.node("Squeeze", [targetScores, g.integers(1)]), scores];
  });
  outputs.forEach(({ name, type, shape }, i) => {
    g.output(name, values[i], type, shape);
  });
}

/** The returned function adds the bank's directions to hidden states [N, D], scaled by gates [N, Q]. */
export function addBank(
  g: GraphBuilder,
  { hiddenSize: D }: Pick<ModelShape, "hiddenSize">,
  { gates: Q, a, a0, b }: Bank,
) {
  if (Q === 0) return (hidden: string, _gates: string) => hidden;
  const [rows, shift, directions] = [
    g.constant(a, [Q, D], "bank.a"),
    g.constant(a0, [Q], "bank.a0"),
    g.constant(b, [Q, D], "bank.b"),
  ];
  return (hidden: string, gates: string) => {
    const inner = g.node("Gemm", [hidden, rows, shift], { transB: 1 }); // [N, Q]
    return g.node("Gemm", [g.node("Mul", [inner, gates]), directions, hidden]); // [N, D]
  };
}

function ownInputs(g: GraphBuilder, { hiddenSize: D }: ModelShape) {
  return {
    has: g.input(names.hasOwn, "bool", []),
    rows: g.input(names.ownRows, "int32", ["X", 1]),
    indexes: g.input(names.ownIndexes, "int32", ["X", "P"]),
    weights: g.input(names.ownWeights, "float32", ["X", "P", 1, 1]),
    a: g.input(names.ownA, "float32", ["E", D, ownRank]),
    b: g.input(names.ownB, "float32", ["E", ownRank + 1, D]),
  };
}

/**
 * Adds the sum of w·(B(A·h) + c) over a row's adapters, where h is the row of `hidden` [N, D]. Each row has its own matrix products, so
 * that a row's bits do not depend on other rows.
 */
function withOwn(
  g: GraphBuilder,
  { hiddenSize: D }: ModelShape,
  own: ReturnType<typeof ownInputs>,
  hidden: string,
  adapted: string,
): string {
  const add = () => {
    const rows = g.node("Cast", [own.rows], { to: 7 });
    const states = g.node("Unsqueeze", [g.node("GatherND", [hidden, rows]), g.integers(1, 2)]); // [X, 1, 1, D]
    const inner = g.node("MatMul", [states, g.node("Gather", [own.a, own.indexes], { axis: 0 })]); // [X, P, 1, R]
    const weighted = g.node("Concat", [g.node("Mul", [inner, own.weights]), own.weights], { axis: 3 }); // [X, P, 1, R + 1]
    const change = g.node("MatMul", [weighted, g.node("Gather", [own.b, own.indexes], { axis: 0 })]); // [X, P, 1, D]
    const sum = g.node("ReduceSum", [change, g.integers(1, 2)], { keepdims: 0 });
    const changed = g.node("Add", [g.node("GatherND", [adapted, rows]), sum]);
    return [g.node("ScatterND", [adapted, rows, changed])];
  };
  const [result] = g.when(own.has, [{ type: "float32", shape: ["N", D] }], add, () => [g.node("Identity", [adapted])]);
  return result;
}

/** Returns K tokens of each row, their logits, and the first token's probability at temperature 1 and at the row's temperature. */
function rankedScores(
  g: GraphBuilder,
  scores: string,
  { scaled, inverseTemperatures, K }: { scaled: string; inverseTemperatures: string; K: number },
): string[] {
  const [topScores, topIds] = g.nodes("TopK", [scores, g.integers(K)], 2, { axis: -1, largest: 1, sorted: 1 });
  const top = g.node("Slice", [topIds, g.integers(0), g.integers(1), g.integers(1)]); // [N, 1]
  const topProbability = (x: string) =>
    g.node("GatherElements", [g.node("Softmax", [x], { axis: -1 }), top], { axis: 1 });
  const [scaledTop] = g.when(scaled, [{ type: "float32", shape: ["N", 1] }], () => {
    const column = g.node("Unsqueeze", [inverseTemperatures, g.integers(1)]);
    return [topProbability(g.node("Mul", [scores, column]))];
  });
  return [topScores, g.node("Cast", [topIds], { to: 6 }), topProbability(scores), scaledTop];
}

/** Returns 1 instead of the likeliest token's probability; NaN if the softmax would be NaN. A logit of -Infinity is valid. */
function likeliestScore(g: GraphBuilder, scores: string): string[] {
  const top = g.node("ArgMax", [scores], { axis: -1, keepdims: 1 }); // [N, 1]
  const sum = g.node("ReduceSum", [scores, g.integers(1)], { keepdims: 1 });
  const oneIfFinite = g.node("Add", [g.node("Mul", [sum, g.scalar(0)]), g.scalar(1)]);
  const isLowest = g.node("Less", [sum, g.scalar(lowestFloat)]);
  const one = g.node("Where", [isLowest, g.scalar(1), oneIfFinite]);
  const score = g.node("GatherElements", [scores, top], { axis: 1 });
  return [score, g.node("Cast", [top], { to: 6 }), one, g.node("Identity", [one])];
}

/** `indices` is int64 [A, 2]. A step without changes needs no branch, because a small A costs little. */
export function changedLogits(
  g: GraphBuilder,
  logits: string,
  { indices, penalties, values }: Record<"indices" | "penalties" | "values", string>,
): string {
  const x = g.node("GatherND", [logits, indices]);
  const isPositive = g.node("Greater", [x, g.scalar(0)]);
  const own = g.node("Where", [isPositive, g.node("Div", [x, penalties]), g.node("Mul", [x, penalties])]);
  return g.node("ScatterND", [logits, indices, g.node("Add", [own, values])]);
}
