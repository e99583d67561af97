/**
 * The LM head under the paper's low-rank update of its weights: logits = W·h + Bᵀ·(A·h). B has a column per vocabulary entry; in the
 * adapters that this project serves both factors are in hidden space (training-graph.ts).
 * Shapes: N tokens, R rank, D hidden size, V vocabulary.
 */
import { GraphBuilder } from "../../runtime/graph.ts";
import { openSession, tensor } from "../../runtime/session.ts";
import type { HeadWeights } from "../../training/bank/training-graph.ts";

/** A low-rank update of rank R: it adds (h·Aᵀ)·B to the logits. */
export interface Pair {
  a: Float32Array; // [R, D]
  b: Float32Array; // [R, V]
}

export interface PairHead {
  /** The loss of each target [N] after the hidden states [N, D], in nats, and the gradients of the mean loss by the pair. */
  run(hidden: Float32Array, targets: Int32Array, pair: Pair): Promise<{ losses: Float32Array; gradients: Pair }>;
  release(): Promise<void>;
}

export async function openPairHead(head: HeadWeights, rank: number, threads: number): Promise<PairHead> {
  const { hiddenSize: D, vocabularySize: V } = head;
  const session = await openSession(buildPairGraph(head, rank), { threads });
  return {
    async run(hidden, targets, { a, b }) {
      const N = targets.length;
      const results = await session.run({
        hidden: tensor(hidden, [N, D]),
        targets: tensor(targets, [N]),
        weight: tensor(Float32Array.of(1 / N), []),
        a: tensor(a, [rank, D]),
        b: tensor(b, [rank, V]),
      });
      const of = (name: string) => results[name].data as Float32Array;
      return { losses: of("nll"), gradients: { a: of("d_a"), b: of("d_b") } };
    },
    release: () => session.release(),
  };
}

/** Inputs: hidden [N, D], targets [N], weight [], a [R, D], b [R, V]. Outputs: nll [N], and the gradients d_a and d_b times weight. */
function buildPairGraph({ hiddenSize: D, vocabularySize: V, tokenEmbedding }: HeadWeights, R: number): Uint8Array {
  const g = new GraphBuilder("pair");
  const [hidden, targets] = [g.input("hidden", "float32", ["N", D]), g.input("targets", "int32", ["N"])];
  const weight = g.input("weight", "float32", []);
  const [a, b] = [g.input("a", "float32", [R, D]), g.input("b", "float32", [R, V])];
  const base = g.node("Gemm", [hidden, g.constant(tokenEmbedding, [V, D])], { transB: 1 });
  const p = g.node("Gemm", [hidden, a], { transB: 1 });
  const logprobs = g.node("LogSoftmax", [g.node("Gemm", [p, b, base])], { axis: 1 }); // [N, V]
  const column = g.node("Unsqueeze", [targets, g.integers(1)]);
  const ofTarget = g.node("GatherElements", [logprobs, column], { axis: 1 }); // [N, 1]
  g.output("nll", g.node("Neg", [g.node("Squeeze", [ofTarget, g.integers(1)])]), "float32", ["N"]);

  const minusOnes = g.node("Sub", [ofTarget, g.node("Add", [ofTarget, g.scalar(1)])]);
  const probabilities = g.node("Exp", [logprobs]);
  const dLogits = g.node("ScatterElements", [probabilities, column, minusOnes], { axis: 1, reduction: "add" });
  g.output("d_b", g.node("Gemm", [g.node("Mul", [p, weight]), dLogits], { transA: 1 }), "float32", [R, V]);
  const dP = g.node("Mul", [g.node("Gemm", [dLogits, b], { transB: 1 }), weight]);
  g.output("d_a", g.node("Gemm", [dP, hidden], { transA: 1 }), "float32", [R, D]);
  return g.bytes();
}
