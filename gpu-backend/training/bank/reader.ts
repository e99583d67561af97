/** Log-likelihoods of next tokens over the whole vocabulary. Shapes: N positions, D hidden, V vocabulary, Q gates, K non-target tokens. */
import { GraphBuilder } from "../../runtime/graph.ts";
import { addBank } from "../../runtime/head-graph.ts";
import { openSession, tensor } from "../../runtime/session.ts";
import type { Bank } from "../../runtime/step.ts";
import type { HeadWeights } from "./training-graph.ts";

export interface Head {
  hiddenSize: number; // D
  vocabularySize: number; // V
  /** Adds nodes for the logits [N, V] of adapted states [N, D]. */
  addLogits(g: GraphBuilder, adapted: string): string;
}

export function plainHead({ hiddenSize, vocabularySize, tokenEmbedding }: HeadWeights): Head {
  const addLogits: Head["addLogits"] = (g, adapted) =>
    g.node("Gemm", [adapted, g.constant(tokenEmbedding, [vocabularySize, hiddenSize])], { transB: 1 });
  return { hiddenSize, vocabularySize, addLogits };
}

/** Number of logits in one run, at 64 MB. */
const maxLogits = 2 ** 24;

export type Reader = Awaited<ReturnType<typeof openReader>>;
export type Reading = Awaited<ReturnType<Reader["read"]>>;

export async function openReader(head: Head, bank: Bank, threads: number) {
  const { hiddenSize: D, vocabularySize: V } = head;
  const session = await openSession(buildReadingGraph(head, bank), { threads });
  /**
   * Log-likelihoods of `targets` [N] and `others` [N, K] after `hidden` [N, D]. `gates` are [N, Q], or [Q] for all positions; zeros are
   * the base. `change` [N, D] is what own adapters add to the adapted states.
   */
  async function read(
    hidden: Float32Array,
    gates: Float32Array,
    targets: Int32Array,
    { change, others = new Int32Array(0) }: { change?: Float32Array; others?: Int32Array } = {},
  ) {
    const N = targets.length;
    const K = others.length / N;
    const reading = {
      ...{ logprobs: new Float32Array(N), otherLogprobs: new Float32Array(N * K) },
      ...{ topIds: new Int32Array(N), topLogprobs: new Float32Array(N) },
    };
    const perRun = Math.max(1, Math.floor(maxLogits / V));
    for (let from = 0; from < N; from += perRun) {
      const rows = Math.min(perRun, N - from);
      // A value for a single position serves all positions.
      const part = (values: Float32Array, width: number) =>
        values.length === width
          ? tensor(values, [1, width])
          : tensor(values.subarray(from * width, (from + rows) * width), [rows, width]);
      const output = await session.run({
        hidden: tensor(hidden.subarray(from * D, (from + rows) * D), [rows, D]),
        gates: part(gates, bank.gates),
        change: part(change ?? new Float32Array(D), D),
        targets: tensor(targets.subarray(from, from + rows), [rows, 1]),
        others: tensor(others.subarray(from * K, (from + rows) * K), [rows, K]),
      });
      reading.logprobs.set(output.logprobs.data as Float32Array, from);
      reading.otherLogprobs.set(output.other_logprobs.data as Float32Array, from * K);
      reading.topIds.set(output.top_ids.data as Int32Array, from);
      reading.topLogprobs.set(output.top_logprobs.data as Float32Array, from);
    }
    return reading;
  }

  return { read, release: () => session.release() };
}

/** Inputs: hidden [N, D], gates [N or 1, Q], change [N or 1, D], targets [N, 1], others [N, K]. Outputs as in `Reading`. */
function buildReadingGraph({ hiddenSize, addLogits }: Head, bank: Bank): Uint8Array {
  const g = new GraphBuilder("reading");
  const hidden = g.input("hidden", "float32", ["N", hiddenSize]);
  const gates = g.input("gates", "float32", ["G", bank.gates]);
  const adapted = addBank(g, { hiddenSize }, bank)(hidden, gates);
  const changed = g.node("Add", [adapted, g.input("change", "float32", ["M", hiddenSize])]);
  // LogSoftmax, because ReduceLogSumExp takes several times as long over a large vocabulary.
  const logprobs = g.node("LogSoftmax", [addLogits(g, changed)], { axis: 1 });
  const of = (ids: string) => g.node("GatherElements", [logprobs, ids], { axis: 1 });
  g.output("logprobs", of(g.input("targets", "int32", ["N", 1])), "float32", ["N", 1]);
  g.output("other_logprobs", of(g.input("others", "int32", ["N", "K"])), "float32", ["N", "K"]);
  const [top, topIds] = g.nodes("TopK", [logprobs, g.integers(1)], 2, { axis: 1 });
  g.output("top_logprobs", top, "float32", ["N", 1]);
  g.output("top_ids", g.node("Cast", [topIds], { to: 6 }), "int32", ["N", 1]);
  return g.bytes();
}
