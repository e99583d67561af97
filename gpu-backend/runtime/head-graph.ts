/**
 * The head of the serving graph: from hidden states to what the sampler reads. Plain rows have one adapter (or none) and
 * give its logits. Mixed rows have several experts (the base, adapters, the pointer) and give log p of their mixture.
 * Shapes: D hidden, V vocabulary, Q gates, M head rows, N plain rows, G mixed rows, J adapters of a mixed row, R columns of
 * the pool, B rows whose pointer keys are fed, T queries of each, H heads, d head width, P positions.
 */
import type { GraphBuilder } from "./graph.ts";
import { names, type RowNames } from "./graph-names.ts";
import { type Bank, type Gpt2Config, topCandidates } from "./step.ts";

/** Slots for full adapters of one rank. */
export interface PoolShape {
  slots: number;
  rank: number;
}

/** Added to probabilities, so that their logarithm is finite in float32; unlike a maximum it lets NaN through. */
const leastProbability = 1e-37;

/** The bank and the pool, as both kinds of rows use them. */
export interface Adapters {
  /** u [N, Q] of hidden states [N, D], before the gates; null where there is no bank. */
  bank: { project(hidden: string): string; b: string; gates: number } | null;
  pool: { a: string; b: string; columns: number } | null;
}

interface HeadParts {
  g: GraphBuilder;
  config: Gpt2Config;
  adapters: Adapters;
  /** Base logits [N, V] of hidden states [N, D]. */
  baseLogits(hidden: string): string;
  /** Q·Kᵀ of [B, H, T, d] and [B, H, P, d]. */
  products(q: string, k: string): string;
}

export function addAdapters({
  g,
  config,
  bank,
  pool,
}: {
  g: GraphBuilder;
  config: Gpt2Config;
  bank: Bank;
  pool: PoolShape | null;
}): Adapters {
  const { hiddenSize: D, vocabularySize: V } = config;
  const { gates: Q } = bank;
  const columns = pool ? pool.slots * pool.rank : 0;
  let ofBank: Adapters["bank"] = null;
  if (Q > 0) {
    const a = g.constant(bank.a, [Q, D], "bank.a");
    const a0 = g.constant(bank.a0, [Q], "bank.a0");
    const b = g.constant(bank.b, [Q, V], "bank.b");
    ofBank = { project: (hidden) => g.node("Gemm", [hidden, a, a0], { transB: 1 }), b, gates: Q };
  }
  return {
    bank: ofBank,
    pool: pool && {
      a: g.input(names.poolA, "float32", [columns, D]),
      b: g.input(names.poolB, "float32", [columns, V]),
      columns,
    },
  };
}

/** Plain rows: base logits plus the delta of the row's adapter. Row by row the same bits whatever else runs. */
export function addPlainHead({ g, config, adapters, baseLogits }: HeadParts, hidden: string): void {
  const { bank, pool } = adapters;
  const gates = g.input(names.plain.gates, "float32", ["N", bank?.gates ?? 0]);
  const poolMask = pool && g.input(names.plain.poolMask, "float32", ["N", pool.columns]); // 1 in the columns of the row's slot
  addRows(g, config, { names: names.plain, count: "N" }, hidden, (rows) => {
    let logits = baseLogits(rows);
    if (bank) logits = g.node("Gemm", [g.node("Mul", [bank.project(rows), gates]), bank.b, logits]);
    if (pool && poolMask) {
      const own = g.node("Mul", [g.node("Gemm", [rows, pool.a], { transB: 1 }), poolMask]);
      logits = g.node("Gemm", [own, pool.b, logits]);
    }
    return logits;
  });
}

/**
 * Mixed rows: log p of Σ weight · p over the base, J adapters and the pointer. Where the mixture is not wanted, the experts
 * only score the targets: that is how evidence is taken. `keys` [M, D] are the head rows' pointer keys.
 */
export function addMixedHead(head: HeadParts, hidden: string, keys: string): void {
  const { g, config, adapters, baseLogits } = head;
  const { vocabularySize: V } = config;
  const { bank, pool } = adapters;
  const { mixed } = names;
  const gates = g.input(mixed.gates, "float32", ["G", "J", bank?.gates ?? 0]);
  const poolMask = pool && g.input(mixed.poolMask, "float32", ["G", "J", pool.columns]);
  const bias = {
    indices: g.input(mixed.expertBiasIndices, "int32", ["E", 3]),
    values: g.input(mixed.expertBiasValues, "float32", ["E"]),
  };
  const rowIndex = g.input(mixed.rows, "int32", ["G"]);
  const targetIds = g.input(mixed.targetIds, "int32", ["G"]);
  const [baseP, expertP, baseTargets, expertTargets] = g.when(
    g.input(mixed.wanted, "bool", []),
    [
      { type: "float32", shape: ["G", V] },
      { type: "float32", shape: ["G", "J", V] },
      { type: "float32", shape: ["G", 1] },
      { type: "float32", shape: ["G", "J", 1] },
    ],
    () => {
      const rows = g.node("Gather", [hidden, rowIndex], { axis: 0 });
      const base = baseLogits(rows);
      const each = (x: string) => g.node("Unsqueeze", [x, g.integers(1)]); // [G, 1, …]
      const spread = g.node("Concat", [g.node("Shape", [gates], { start: 0, end: 2 }), g.integers(1)], { axis: 0 });
      let logits = g.node("Expand", [each(base), spread]); // [G, J, V]
      if (bank) {
        const u = g.node("Mul", [each(bank.project(rows)), gates]);
        logits = g.node("Add", [g.node("MatMul", [u, bank.b]), each(base)]);
      }
      if (pool && poolMask) {
        const own = g.node("Mul", [each(g.node("Gemm", [rows, pool.a], { transB: 1 })), poolMask]);
        logits = g.node("Add", [g.node("MatMul", [own, pool.b]), logits]);
      }
      const places = g.node("Cast", [bias.indices], { to: 7 });
      logits = g.node("ScatterND", [logits, places, bias.values], { reduction: "add" });
      const probabilities = [base, logits].map((x) => g.node("Softmax", [x], { axis: -1 }));
      const targets = g.node("Unsqueeze", [targetIds, g.integers(1)]); // [G, 1]
      const ofExperts = g.node("Expand", [each(targets), spread]); // [G, J, 1]
      return [
        ...probabilities,
        g.node("GatherElements", [probabilities[0], targets], { axis: 1 }),
        g.node("GatherElements", [probabilities[1], ofExperts], { axis: 2 }),
      ];
    },
  );
  g.output(mixed.baseTargets, baseTargets, "float32", ["G", 1]);
  g.output(mixed.expertTargets, expertTargets, "float32", ["G", "J", 1]);

  const baseWeights = g.input(mixed.baseWeights, "float32", ["G", 1]);
  const expertWeights = g.input(mixed.expertWeights, "float32", ["G", 1, "J"]);
  const pointer = addPointer(head, keys);
  const parts = { names: mixed, count: "G", wanted: g.input(mixed.wantsMixture, "bool", []), targetIds };
  addRows(g, config, parts, null, () => {
    const ofExperts = g.node("Squeeze", [g.node("MatMul", [expertWeights, expertP]), g.integers(1)]); // [G, V]
    const weighted = g.node("Add", [g.node("Mul", [baseP, baseWeights]), ofExperts]);
    const { ids, masses } = pointer();
    const p = g.node("ScatterElements", [weighted, ids, masses], { axis: 1, reduction: "add" });
    return g.node("Log", [g.node("Add", [p, g.scalar(leastProbability)])]);
  });
}

/**
 * The pointer (Grave, Joulin, Usunier, arXiv 1612.04426): attention of a row's key over the keys of its prompt, as one more
 * attention layer whose heads' scores are summed. Returns what gives ids [G, P] and the probability each receives [G, P].
 */
function addPointer({ g, config, products }: HeadParts, keys: string) {
  const { hiddenSize: D, heads: H } = config;
  const { mixed } = names;
  const past = g.input(mixed.pointerKeys, "float32", ["B", H, "P", D / H]);
  const queries = g.input(mixed.pointerQueries, "int32", ["B", "T"]); // head rows
  const mask = g.input(mixed.pointerMask, "float32", ["B", 1, "P"]);
  const sharpness = g.input(mixed.pointerSharpness, "float32", []);
  const rows = g.input(mixed.pointerRows, "int32", ["G"]); // of B × T
  const idsAsFed = g.input(mixed.pointerIds, "int32", ["G", "P"]);
  const weights = g.input(mixed.pointerWeights, "float32", ["G", 1]);
  return () => {
    const shape = g.node("Concat", [g.node("Shape", [queries]), g.integers(H, D / H)], { axis: 0 });
    const asked = g.node("Reshape", [g.node("Gather", [keys, queries], { axis: 0 }), shape]); // [B, T, H, d]
    const query = g.node("Transpose", [asked], { perm: [0, 2, 1, 3] });
    const cosines = g.node("ReduceSum", [products(query, past), g.integers(1)], { keepdims: 0 }); // [B, T, P]
    const scores = g.node("Add", [g.node("Mul", [cosines, sharpness]), mask]);
    const lastSize = g.node("Shape", [mask], { start: 2, end: 3 });
    const flat = g.node("Concat", [g.integers(-1), lastSize], { axis: 0 });
    const attention = g.node("Reshape", [g.node("Softmax", [scores], { axis: -1 }), flat]); // [B × T, P]
    const masses = g.node("Mul", [g.node("Gather", [attention, rows], { axis: 0 }), weights]);
    return { ids: g.node("Cast", [idsAsFed], { to: 7 }), masses };
  };
}

/**
 * What the sampler reads of rows of logits [N, V]: the request's bias is added, the likeliest are ranked. `logitsOf` gets the
 * rows' hidden states, where `hidden` is given.
 */
function addRows(
  g: GraphBuilder,
  { vocabularySize: V }: Gpt2Config,
  kind: { names: RowNames; count: string; wanted?: string; targetIds?: string },
  hidden: string | null,
  logitsOf: (rows: string) => string,
): void {
  const { names: n, count: N } = kind;
  const K = Math.min(topCandidates, V);
  const outputs = [
    { name: n.topLogits, type: "float32", shape: [N, K] },
    { name: n.topIds, type: "int32", shape: [N, K] },
    { name: n.topProbability, type: "float32", shape: [N, 1] },
    { name: n.scaledTopProbability, type: "float32", shape: [N, 1] },
    { name: n.targetLogits, type: "float32", shape: [N] },
    { name: n.logits, type: "float32", shape: [N, V] },
  ] as const;
  const rows = hidden ? g.input(n.rows, "int32", [N]) : null;
  const wanted = kind.wanted ?? g.input(n.wanted, "bool", []);
  const biasIndices = g.input(n.biasIndices, "int32", ["A", 2]);
  const biasValues = g.input(n.biasValues, "float32", ["A"]);
  const inverseTemperatures = g.input(n.inverseTemperatures, "float32", [N]);
  const scaled = g.input(n.scaled, "bool", []);
  const targetIds = kind.targetIds ?? g.input(n.targetIds, "int32", [N]);
  const values = g.when(wanted, outputs, () => {
    const adapted = logitsOf(rows && hidden ? g.node("Gather", [hidden, rows], { axis: 0 }) : "");
    const indices = g.node("Cast", [biasIndices], { to: 7 });
    const logits = g.node("ScatterND", [adapted, indices, biasValues], { reduction: "add" });
    const [topLogits, topIds] = g.nodes("TopK", [logits, g.integers(K)], 2, { axis: -1, largest: 1, sorted: 1 });
    const top = g.node("Slice", [topIds, g.integers(0), g.integers(1), g.integers(1)]); // [N, 1]
    const ofTop = (x: string) => g.node("GatherElements", [g.node("Softmax", [x], { axis: -1 }), top], { axis: 1 });
    const [scaledTop] = g.when(scaled, [{ type: "float32", shape: [N, 1] }], () => {
      const column = g.node("Unsqueeze", [inverseTemperatures, g.integers(1)]);
      return [ofTop(g.node("Mul", [logits, column]))];
    });
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
  });
  outputs.forEach(({ name, type, shape }, i) => {
    g.output(name, values[i], type, shape);
  });
}
