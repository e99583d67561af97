/**
 * The training step as one ONNX graph: hyper-network, bank and softmax cross-entropy, forward and backward, with gradients in
 * closed form. The trunk is not in it: hidden states are inputs, because an adapter never changes them.
 *
 *   p = A·h + a0,  u = p ⊙ g,  logits = W·h + Bᵀ·u,  loss = mean of −log softmax(logits)[target]
 *
 * with dlogits = softmax(logits) − onehot(target):
 *   dB = u·dlogitsᵀ,  du = B·dlogits,  dp = du ⊙ g,  dA = dp·hᵀ,  dg = Σ over the window's tokens of du ⊙ p
 *
 * The gates are g = w2·gelu(w1·(√P·e) + b1) + b2:
 *   dw2 = dg·zᵀ, db2 = dg, dz = w2ᵀ·dg, dpre = dz ⊙ gelu'(pre), dw1 = dpre·(√P·e)ᵀ, db1 = dpre
 * N tokens, S windows.
 */
import { GraphBuilder } from "../../runtime/graph.ts";
import { addQuantizedMatMuls, type QuantizedMatrix, quantizeColumns } from "../../runtime/quantizer.ts";
import { transpose } from "../../runtime/transpose.ts";
import type { BankShape } from "./parameters.ts";

/** c and k of gelu_new: ½x(1 + tanh(c(x + kx³))). */
const geluC = Math.sqrt(2 / Math.PI);
const geluK = 0.044715;

export interface HeadWeights {
  vocabularySize: number; // V
  hiddenSize: number; // D
  tokenEmbedding: Float32Array; // [V, D], the tied head
  /** Quantised copy that training steps use instead, [D, V]; absent: the head itself. Measurements always use the head itself. */
  rounded?: QuantizedMatrix;
}

export const headFormats = ["fp32", "int8"] as const;
export type HeadFormat = (typeof headFormats)[number];

/** A head whose training steps compute the base's logits in `format`. */
export function headIn(format: HeadFormat, head: HeadWeights): HeadWeights {
  if (format === "fp32") return head;
  const { hiddenSize: D, vocabularySize: V, tokenEmbedding } = head;
  return { ...head, rounded: quantizeColumns(transpose(tokenEmbedding, V, D), D, V) };
}

/**
 * Inputs: hidden [N, D], targets [N], weight [] (1 / tokens of the whole step), window_of [N], embeddings [S, P], the parameters.
 * Outputs: nll [N] and d_<parameter> for each parameter, scaled by `weight`.
 */
export function buildTrainingGraph(head: HeadWeights, shape: BankShape): Uint8Array {
  const { hiddenSize: D, vocabularySize: V } = head;
  const { gates: Q, hidden: H, dimensions: P } = shape;
  const g = new GraphBuilder("training-step");
  const tokens = addTokenInputs(g, D);
  const a = g.input("a", "float32", [Q, D]);
  const b = g.input("b", "float32", [Q, V]);
  const network = addHyperNetwork(g, shape);
  const windowOf = g.input("window_of", "int32", ["N"]);
  const gates = g.node("Gather", [network.gates, windowOf], { axis: 0 }); // [N, Q]

  const { p, dU, dP, dB } = addHead(g, head, tokens, { a, b, a0: g.constant(shape.a0, [Q]), gates });
  g.output("d_b", dB, "float32", [Q, V]);
  const lowRank = g.constant(
    shape.a0.map((x) => 1 - x),
    [Q, 1],
  ); // bias directions have no row of A to learn
  g.output("d_a", g.node("Mul", [g.node("Gemm", [dP, tokens.hidden], { transA: 1 }), lowRank]), "float32", [Q, D]);

  const windows = g.node("Unsqueeze", [network.windowIndexes, g.integers(1)]); // [S, 1]
  const membership = g.node("Cast", [g.node("Equal", [windows, g.node("Unsqueeze", [windowOf, g.integers(0)])])], {
    to: 1,
  });
  const dGates = g.node("MatMul", [membership, g.node("Mul", [dU, p])]); // [S, N]·[N, Q]
  const sumOverWindows = (x: string) => g.node("ReduceSum", [x, g.integers(0)], { keepdims: 0 });
  g.output("d_w2", g.node("Gemm", [dGates, network.z], { transA: 1 }), "float32", [Q, H]);
  g.output("d_b2", sumOverWindows(dGates), "float32", [Q]);
  const dPre = g.node("Mul", [g.node("MatMul", [dGates, network.w2]), network.slope]); // [S, H]
  g.output("d_w1", g.node("Gemm", [dPre, network.input], { transA: 1 }), "float32", [H, P]);
  g.output("d_b1", sumOverWindows(dPre), "float32", [H]);
  return g.bytes();
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

/** Nodes of the head's two passes: p, dU, dP [N, Q], dB [Q, V]; gradients are scaled by the weight. */
export interface HeadNodes {
  p: string;
  dU: string;
  dP: string;
  dB: string;
}

/** Head, adapter and loss, forward and backward; outputs nll [N]. a [Q, D], b [Q, V], a0 [Q] or null for 0, gates [N, Q] or null for 1. */
export function addHead(
  g: GraphBuilder,
  head: HeadWeights,
  { hidden, targets, weight }: TokenInputs,
  adapter: { a: string; b: string; a0: string | null; gates: string | null },
): HeadNodes {
  const { a, b, a0, gates } = adapter;
  const { hiddenSize: D, vocabularySize: V } = head;
  const p = g.node("Gemm", a0 ? [hidden, a, a0] : [hidden, a], { transB: 1 });
  const u = gates ? g.node("Mul", [p, gates]) : p;
  const base = head.rounded
    ? addQuantizedMatMuls(g, hidden)(hidden, head.rounded)
    : g.node("Gemm", [hidden, g.constant(head.tokenEmbedding, [V, D])], { transB: 1 });
  const probabilities = g.node("Softmax", [g.node("Gemm", [u, b, base])], { axis: 1 }); // [N, V]
  const targetColumn = g.node("Unsqueeze", [targets, g.integers(1)]);
  const ofTarget = g.node("GatherElements", [probabilities, targetColumn], { axis: 1 });
  const nll = g.node("Neg", [g.node("Log", [g.node("Squeeze", [ofTarget, g.integers(1)])])]);
  g.output("nll", nll, "float32", ["N"]);

  const minusOnes = g.node("Sub", [ofTarget, g.node("Add", [ofTarget, g.scalar(1)])]); // [N, 1]
  const dLogits = g.node("ScatterElements", [probabilities, targetColumn, minusOnes], { axis: 1, reduction: "add" });
  const dB = g.node("Gemm", [g.node("Mul", [u, weight]), dLogits], { transA: 1 });
  const dU = g.node("Mul", [g.node("Gemm", [dLogits, b], { transB: 1 }), weight]);
  return { p, dU, dP: gates ? g.node("Mul", [dU, gates]) : dU, dB };
}

/** Forward pass of the hyper-network, with what its backward pass needs. */
function addHyperNetwork(g: GraphBuilder, { gates: Q, hidden: H, dimensions: P }: BankShape) {
  const embeddings = g.input("embeddings", "float32", ["S", P]);
  const [w1, b1] = [g.input("w1", "float32", [H, P]), g.input("b1", "float32", [H])];
  const [w2, b2] = [g.input("w2", "float32", [Q, H]), g.input("b2", "float32", [Q])];
  const input = g.node("Mul", [embeddings, g.scalar(Math.sqrt(P))]);
  const pre = g.node("Gemm", [input, w1, b1], { transB: 1 }); // [S, H]
  const square = g.node("Mul", [pre, pre]);
  const inner = g.node("Mul", [
    pre,
    g.node("Add", [g.node("Mul", [square, g.scalar(geluC * geluK)]), g.scalar(geluC)]),
  ]);
  const tanh = g.node("Tanh", [inner]);
  const half = g.node("Mul", [g.node("Add", [tanh, g.scalar(1)]), g.scalar(0.5)]); // ½(1 + tanh)
  const z = g.node("Mul", [pre, half]);
  // gelu' = ½(1 + t) + ½x(1 − t²)·c(1 + 3kx²)
  const steepness = g.node("Add", [g.node("Mul", [square, g.scalar(1.5 * geluC * geluK)]), g.scalar(0.5 * geluC)]);
  const bend = g.node("Sub", [g.scalar(1), g.node("Mul", [tanh, tanh])]);
  const slope = g.node("Add", [half, g.node("Mul", [g.node("Mul", [pre, bend]), steepness])]);
  return {
    input,
    w2,
    z,
    slope,
    gates: g.node("Gemm", [z, w2, b2], { transB: 1 }), // [S, Q]
    windowIndexes: addIndexes(g, embeddings),
  };
}

/** 0 … S − 1 for the rows of a matrix. */
function addIndexes(g: GraphBuilder, matrix: string): string {
  const count = g.node("Squeeze", [g.node("Shape", [matrix], { start: 0, end: 1 }), g.integers(0)]);
  const indexes = g.node("Range", [g.constant(BigInt64Array.of(0n), []), count, g.constant(BigInt64Array.of(1n), [])]);
  return g.node("Cast", [indexes], { to: 6 });
}

/** Forward only: hidden [N, D], targets [N], gates [N, Q], a, b → nll [N]. */
export function buildLossGraph(head: HeadWeights, shape: BankShape): Uint8Array {
  const { hiddenSize: D, vocabularySize: V } = head;
  const Q = shape.gates;
  const g = new GraphBuilder("loss");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const targets = g.input("targets", "int32", ["N"]);
  const gates = g.input("gates", "float32", ["N", Q]);
  const a = g.input("a", "float32", [Q, D]);
  const b = g.input("b", "float32", [Q, V]);
  const p = g.node("Gemm", [hidden, a, g.constant(shape.a0, [Q])], { transB: 1 });
  const base = g.node("Gemm", [hidden, g.constant(head.tokenEmbedding, [V, D])], { transB: 1 });
  const logits = g.node("Gemm", [g.node("Mul", [p, gates]), b, base]);
  // Not ReduceLogSumExp, which takes several times as long over a large vocabulary.
  const logprobs = g.node("LogSoftmax", [logits], { axis: 1 });
  const column = g.node("Unsqueeze", [targets, g.integers(1)]);
  const ofTarget = g.node("Squeeze", [g.node("GatherElements", [logprobs, column], { axis: 1 }), g.integers(1)]);
  g.output("nll", g.node("Neg", [ofTarget]), "float32", ["N"]);
  return g.bytes();
}
