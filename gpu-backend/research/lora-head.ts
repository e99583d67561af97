/**
 * LoRA of the LM head as the paper has it, in the space of the vocabulary: logits = W·h + Bᵀ·(A·h). What this project serves is the
 * same kind of update with a factor in hidden space (training-graph.ts).
 * Shapes: N tokens, R rank, D hidden size, V vocabulary.
 */
import { GraphBuilder } from "../runtime/graph.ts";
import { openSession, type Session, tensor } from "../runtime/session.ts";
import type { HeadWeights } from "../training/bank/training-graph.ts";

/** A low-rank pair: delta = (h·Aᵀ)·B. */
export interface Pair {
  a: Float32Array; // [R, D]
  b: Float32Array; // [R, V]
}

export interface TokenInputs {
  hidden: string; // [N, D]
  targets: string; // [N]
  weight: string; // []
}

export function addTokenInputs(g: GraphBuilder, D: number): TokenInputs {
  return {
    hidden: g.input("hidden", "float32", ["N", D]),
    targets: g.input("targets", "int32", ["N"]),
    weight: g.input("weight", "float32", []),
  };
}

/** Head, pair and loss, forward and backward. Outputs nll [N]; returns dP [N, R] and dB [R, V], scaled by the weight. */
export function addHead(
  g: GraphBuilder,
  head: HeadWeights,
  { hidden, targets, weight }: TokenInputs,
  { a, b }: { a: string; b: string },
): { dP: string; dB: string } {
  const p = g.node("Gemm", [hidden, a], { transB: 1 });
  const probabilities = g.node("Softmax", [logitsOf(g, head, hidden, p, b)], { axis: 1 }); // [N, V]
  const targetColumn = g.node("Unsqueeze", [targets, g.integers(1)]);
  const ofTarget = g.node("GatherElements", [probabilities, targetColumn], { axis: 1 });
  const nll = g.node("Neg", [g.node("Log", [g.node("Squeeze", [ofTarget, g.integers(1)])])]);
  g.output("nll", nll, "float32", ["N"]);

  const minusOnes = g.node("Sub", [ofTarget, g.node("Add", [ofTarget, g.scalar(1)])]); // [N, 1]
  const dLogits = g.node("ScatterElements", [probabilities, targetColumn, minusOnes], { axis: 1, reduction: "add" });
  const dB = g.node("Gemm", [g.node("Mul", [p, weight]), dLogits], { transA: 1 });
  const dP = g.node("Mul", [g.node("Gemm", [dLogits, b], { transB: 1 }), weight]);
  return { dP, dB };
}

function logitsOf(g: GraphBuilder, head: HeadWeights, hidden: string, p: string, b: string): string {
  const { hiddenSize: D, vocabularySize: V, tokenEmbedding } = head;
  const base = g.node("Gemm", [hidden, g.constant(tokenEmbedding, [V, D])], { transB: 1 });
  return g.node("Gemm", [p, b, base]);
}

/** Forward only: computes losses under pairs of a rank. */
export class PairMeter {
  readonly #session: Session;
  readonly #head: HeadWeights;

  private constructor(session: Session, head: HeadWeights) {
    this.#session = session;
    this.#head = head;
  }

  static async open(head: HeadWeights, rank: number, threads: number): Promise<PairMeter> {
    const { hiddenSize: D, vocabularySize: V } = head;
    const g = new GraphBuilder("pair-loss");
    const [hidden, targets] = [g.input("hidden", "float32", ["N", D]), g.input("targets", "int32", ["N"])];
    const [a, b] = [g.input("a", "float32", [rank, D]), g.input("b", "float32", [rank, V])];
    const logits = logitsOf(g, head, hidden, g.node("Gemm", [hidden, a], { transB: 1 }), b);
    const logprobs = g.node("LogSoftmax", [logits], { axis: 1 });
    const column = g.node("Unsqueeze", [targets, g.integers(1)]);
    const ofTarget = g.node("Squeeze", [g.node("GatherElements", [logprobs, column], { axis: 1 }), g.integers(1)]);
    g.output("nll", g.node("Neg", [ofTarget]), "float32", ["N"]);
    return new PairMeter(await openSession(g.bytes(), { threads }), head);
  }

  /** Negative log-likelihood of each target [N] after hidden [N, D], in nats. */
  async losses(hidden: Float32Array, targets: Int32Array, { a, b }: Pair): Promise<Float32Array> {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const R = a.length / D;
    const feeds = { hidden: tensor(hidden, [targets.length, D]), targets: tensor(targets, [targets.length]) };
    const results = await this.#session.run({ ...feeds, a: tensor(a, [R, D]), b: tensor(b, [R, V]) });
    return results.nll.data as Float32Array;
  }

  release(): Promise<void> {
    return this.#session.release();
  }
}
