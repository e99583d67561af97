/**
 * What the experts of mixed rows say. Rows that are mixed have the base's and their adapters' probabilities of all tokens. Of rows
 * that are evidence only the target's is wanted, and with a large vocabulary what their adapters say of it is estimated
 * (vocabulary-sample.ts): then they are sampled rows, all others full ones.
 * Shapes: V vocabulary, Q gates, G mixed rows, F full and S sampled ones, J adapters of a row,
 * U full rows whose experts are kept, W sampled columns, E entries of the adapters' bias.
 */
import type { HeadParts } from "./adapter-graph.ts";
import type { Dimension } from "./graph.ts";
import { names } from "./graph-names.ts";

const { mixed } = names;

/** Probabilities of the base [G, V] and of full rows' adapters [F, J, V], which are empty where there are none. */
export function addExpertProbabilities(
  head: HeadParts,
  hidden: string,
  { targetIds, hasAdapters }: { targetIds: string; hasAdapters: string },
): { base: string; adapters: string } {
  const { g, config, baseLogits } = head;
  const { vocabularySize: V } = config;
  const rowIndex = g.input(mixed.rows, "int32", ["G"]);
  const targets = () => g.node("Unsqueeze", [targetIds, g.integers(1)]); // [G, 1]
  const rows = () => g.node("Gather", [hidden, rowIndex], { axis: 0 });
  const ofBase = { type: "float32", shape: ["G", V] } as const;
  const [base, logits, baseTargets] = g.when(
    g.input(mixed.wantsExperts, "bool", []),
    [ofBase, ofBase, { type: "float32", shape: ["G", 1] }],
    () => {
      const own = baseLogits(rows());
      const p = g.node("Softmax", [own], { axis: -1 });
      return [p, own, g.node("GatherElements", [p, targets()], { axis: 1 })];
    },
  );
  g.output(mixed.baseTargets, baseTargets, "float32", ["G", 1]);
  const mixedRows = { rows, targets, logits };
  const adapters = addFullRows(head, mixedRows, hasAdapters);
  addSampledRows(head, mixedRows);
  const kept = (rowsOf: string, x: string) => g.node("Gather", [x, g.input(rowsOf, "int32", ["U"])], { axis: 0 });
  g.output(mixed.keptBase, kept(mixed.keptRows, base), "float32", ["U", V]);
  g.output(mixed.keptAdapters, kept(mixed.keptAdapterRows, adapters), "float32", ["U", "J", V]);
  return { base, adapters };
}

interface MixedRows {
  /** Hidden states [G, D]. */
  rows(): string;
  targets(): string; // [G, 1]
  /** Of the base, [G, V]. */
  logits: string;
}

/**
 * Probabilities under the adapters of full rows, [F, J, V]. Not inside the branch that computes the base: ONNX Runtime lays
 * matrices out in advance for branches of the graph, not for theirs.
 */
function addFullRows(
  { g, config, bank }: HeadParts,
  { rows, targets, logits: baseLogits }: MixedRows,
  hasAdapters: string,
): string {
  const index = g.input(mixed.fullRows, "int32", ["F"]);
  const gates = g.input(mixed.gates, "float32", ["F", "J", bank?.gates ?? 0]);
  const bias = {
    indices: g.input(mixed.adapterBiasIndices, "int32", ["E", 3]),
    values: g.input(mixed.adapterBiasValues, "float32", ["E"]),
  };
  const shape: Dimension[] = ["F", "J", config.vocabularySize];
  const ofAdapters = { type: "float32", shape } as const;
  const [experts, adapterTargets] = g.when(hasAdapters, [ofAdapters, { type: "float32", shape: ["F", "J", 1] }], () => {
    const each = (x: string) => g.node("Unsqueeze", [x, g.integers(1)]); // [F, 1, …]
    const full = (x: string) => g.node("Gather", [x, index], { axis: 0 });
    const spread = g.node("Concat", [g.node("Shape", [gates], { start: 0, end: 2 }), g.integers(1)], { axis: 0 });
    const states = full(rows());
    const base = full(baseLogits);
    let logits = bank ? "" : g.node("Expand", [each(base), spread]); // [F, J, V]
    if (bank) {
      const u = g.node("Mul", [each(bank.project(states)), gates]);
      logits = g.node("Add", [g.node("MatMul", [u, bank.b]), each(base)]);
    }
    const p = (x: string) => [g.node("Softmax", [x], { axis: -1 })];
    const biased = () => {
      const places = g.node("Cast", [bias.indices], { to: 7 });
      return g.node("ScatterND", [logits, places, bias.values], { reduction: "add" });
    };
    const [probabilities] = g.when(
      g.input(mixed.hasAdapterBias, "bool", []),
      [ofAdapters],
      () => p(biased()),
      () => p(logits),
    );
    const ofExperts = g.node("Expand", [each(full(targets())), spread]); // [F, J, 1]
    return [probabilities, g.node("GatherElements", [probabilities, ofExperts], { axis: 2 })];
  });
  g.output(mixed.adapterTargets, adapterTargets, "float32", ["F", "J", 1]);
  return experts;
}

/** What `estimatedProbability` takes of sampled rows. */
function addSampledRows({ g, bank }: HeadParts, { rows, targets, logits }: MixedRows): void {
  if (!bank?.sampled) return;
  const { gates: Q, sampled } = bank;
  const index = g.input(mixed.sampledRows, "int32", ["S"]);
  const gates = g.input(mixed.sampledGates, "float32", ["S", "J", Q]);
  const outputs = [
    { name: mixed.baseSums, shape: ["S", 3] },
    { name: mixed.adapterSums, shape: ["S", "J", 3] },
    { name: mixed.targetDeltaParts, shape: ["S", "J", Q] },
  ];
  const values = g.when(
    g.input(mixed.hasSampled, "bool", []),
    outputs.map(({ shape }) => ({ type: "float32", shape })),
    () => {
      const each = (x: string) => g.node("Unsqueeze", [x, g.integers(1)]); // [S, 1, …]
      const ofRows = (x: string) => g.node("Gather", [x, index], { axis: 0 });
      const own = g.node("GatherElements", [logits, targets()], { axis: 1 });
      const ranges = sampled.sample.ranges.map(([start, end]) =>
        g.node("Slice", [logits, g.integers(start), g.integers(end), g.integers(1)]),
      );
      const base = ofRows(g.node("Concat", [own, ...ranges], { axis: 1 })); // [S, W]
      const sums = (x: string) => g.node("MatMul", [g.node("Softmax", [x], { axis: -1 }), sampled.summing]);
      const u = g.node("Mul", [each(bank.project(ofRows(rows()))), gates]); // [S, J, Q]
      const adapted = g.node("Add", [g.node("MatMul", [u, sampled.b]), each(base)]); // [S, J, W]
      const ids = g.node("Squeeze", [ofRows(targets()), g.integers(1)]);
      const ofTargets = g.node("Transpose", [g.node("Gather", [bank.b, ids], { axis: 1 })], { perm: [1, 0] }); // [S, Q]
      return [sums(base), sums(adapted), g.node("Mul", [u, each(ofTargets)])];
    },
  );
  outputs.forEach(({ name, shape }, i) => {
    g.output(name, values[i], "float32", shape);
  });
}
