/** Graphs that read what the model and memories say of the next token. Shapes: N rows, D hidden, V vocabulary, Q gates, K ids of a row. */
import { GraphBuilder } from "../../../runtime/graph.ts";
import type { Bank } from "../../../runtime/step.ts";
import { addAdapter, constantBank } from "../../../training/bank/training-graph.ts";

/** queries [N, D], keys [M, D] int8, scale [] and count [1] → cosines and indexes [N, count] of the nearest keys, best first. */
export function buildSearchGraph(hiddenSize: number): Uint8Array {
  const g = new GraphBuilder("search");
  const queries = g.input("queries", "float32", ["N", hiddenSize]);
  const keys = g.node("Cast", [g.input("keys", "int8", ["M", hiddenSize])], { to: 1 });
  const products = g.node("Gemm", [queries, keys], { transB: 1 });
  const cosines = g.node("Mul", [products, g.input("scale", "float32", [])]);
  const [best, indexes] = g.nodes("TopK", [cosines, g.input("count", "int64", [1])], 2, { axis: 1 });
  g.output("cosines", best, "float32", ["N", "K"]);
  g.output("indexes", g.node("Cast", [indexes], { to: 6 }), "int32", ["N", "K"]);
  return g.bytes();
}

/** The base's head: adds logits [N, V] of adapted states [N, D]. */
export interface Head {
  hiddenSize: number; // D
  vocabularySize: number; // V
  addLogits(g: GraphBuilder, adapted: string): string;
}

/** hidden [N, D], gates [N, Q], ids [N, K] → logprobs [N, K] of these ids, top_ids and top_logprobs [N, 1] of the likeliest token. */
export function buildReadingGraph({ hiddenSize: D, addLogits }: Head, bank: Bank): Uint8Array {
  const g = new GraphBuilder("reading");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const gates = g.input("gates", "float32", ["N", bank.gates]);
  const { adapted } = addAdapter(g, hidden, constantBank(g, bank, D), gates);
  const logprobs = g.node("LogSoftmax", [addLogits(g, adapted)], { axis: 1 });
  const ids = g.input("ids", "int32", ["N", "K"]);
  g.output("logprobs", g.node("GatherElements", [logprobs, ids], { axis: 1 }), "float32", ["N", "K"]);
  const [top, topIds] = g.nodes("TopK", [logprobs, g.integers(1)], 2, { axis: 1 });
  g.output("top_logprobs", top, "float32", ["N", 1]);
  g.output("top_ids", g.node("Cast", [topIds], { to: 6 }), "int32", ["N", 1]);
  return g.bytes();
}
