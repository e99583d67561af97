/**
 * The training step as one ONNX graph: adapter and softmax cross-entropy, forward and backward, with gradients in closed form.
 * The trunk is not in it: hidden states are inputs, because an adapter never changes them.
 *
 *   p = A·h + a0,  u = p ⊙ g,  h' = h + Bᵀ·u,  logits = W·h',  loss = mean of −log softmax(logits)[target]
 *
 * with dh' = Wᵀ·(softmax(logits) − onehot(target)):
 *   dB = u·dh'ᵀ,  du = B·dh',  dp = du ⊙ g,  dA = dp·hᵀ,  dg = Σ over the window's tokens of du ⊙ p
 *
 * A static adapter has gates of 1. Those of a centroid's are g = w2·gelu(w1·(√P·e) + b1) + b2, above a static adapter that is
 * no longer trained and whose Bᵀ·u is added to h' as well:
 *   dw2 = dg·zᵀ, db2 = dg, dz = w2ᵀ·dg, dpre = dz ⊙ gelu'(pre), dw1 = dpre·(√P·e)ᵀ, db1 = dpre
 *
 * The softmax is over the whole vocabulary. One over candidates, with all other tokens as a constant mass, takes a tenth of the
 * time and teaches adapters to lift the candidates together, which is worth nothing over all tokens: measured, it harms.
 * Shapes: N tokens, S windows, V vocabulary, D hidden size, Q gates, P dimensions of the embedding, H hidden units.
 */
import { GraphBuilder } from "../../runtime/graph.ts";
import type { Bank } from "../../runtime/step.ts";
import type { BankShape } from "./parameters.ts";

/** c and k of gelu_new: ½x(1 + tanh(c(x + kx³))). */
const geluC = Math.sqrt(2 / Math.PI);
const geluK = 0.044715;

export interface HeadWeights {
  vocabularySize: number; // V
  hiddenSize: number; // D
  tokenEmbedding: Float32Array; // [V, D], the tied head
}

/** What a graph trains: a static adapter, or the centroids' above one. */
export interface Trained {
  shape: BankShape;
  /** null: a static adapter is trained. Else the hyper-network is, and this is what lies under it. */
  above: Bank | null;
}

/**
 * Inputs: hidden [N, D], targets [N], weight [] (1 / tokens of the whole step), a, b, and above a static adapter window_of [N],
 * embeddings [S, P] and the hyper-network's layers.
 * Outputs: nll [N] and d_<parameter> for each parameter, scaled by `weight`.
 */
export function buildTrainingGraph(head: HeadWeights, { shape, above }: Trained): Uint8Array {
  const { hiddenSize: D } = head;
  const { gates: Q, hidden: H, dimensions: P } = shape;
  const g = new GraphBuilder("training-step");
  const tokens = addTokens(g, head);
  const [a, b] = [g.input("a", "float32", [Q, D]), g.input("b", "float32", [Q, D])];
  const network = above && addHyperNetwork(g, shape);
  const windowOf = network && g.input("window_of", "int32", ["N"]);
  const gates = network && g.node("Gather", [network.gates, windowOf!], { axis: 0 }); // [N, Q]

  const under = above ? addAdapter(g, tokens.hidden, constantBank(g, above, D), null).adapted : tokens.hidden;
  const own = addAdapter(g, tokens.hidden, { a, a0: g.constant(shape.a0, [Q]), b }, gates, under);
  const dAdapted = addLoss(g, tokens, own.adapted); // [N, D]
  const dU = g.node("Gemm", [dAdapted, b], { transB: 1 });
  const dP = gates ? g.node("Mul", [dU, gates]) : dU;
  g.output("d_b", g.node("Gemm", [own.u, dAdapted], { transA: 1 }), "float32", [Q, D]);
  const lowRank = g.constant(
    shape.a0.map((x) => 1 - x),
    [Q, 1],
  ); // bias directions have no row of A to learn
  g.output("d_a", g.node("Mul", [g.node("Gemm", [dP, tokens.hidden], { transA: 1 }), lowRank]), "float32", [Q, D]);
  if (!network) return g.bytes();

  const windows = g.node("Unsqueeze", [network.windowIndexes, g.integers(1)]); // [S, 1]
  const membership = g.node("Cast", [g.node("Equal", [windows, g.node("Unsqueeze", [windowOf!, g.integers(0)])])], {
    to: 1,
  });
  const dGates = g.node("MatMul", [membership, g.node("Mul", [dU, own.p])]); // [S, N]·[N, Q]
  const sumOverWindows = (x: string) => g.node("ReduceSum", [x, g.integers(0)], { keepdims: 0 });
  g.output("d_w2", g.node("Gemm", [dGates, network.z], { transA: 1 }), "float32", [Q, H]);
  g.output("d_b2", sumOverWindows(dGates), "float32", [Q]);
  const dPre = g.node("Mul", [g.node("MatMul", [dGates, network.w2]), network.slope]); // [S, H]
  g.output("d_w1", g.node("Gemm", [dPre, network.input], { transA: 1 }), "float32", [H, P]);
  g.output("d_b1", sumOverWindows(dPre), "float32", [H]);
  return g.bytes();
}

/** Forward only: hidden [N, D], targets [N], gates [N, Q], a, b → nll [N] over the whole vocabulary. */
export function buildLossGraph(head: HeadWeights, a0: Float32Array): Uint8Array {
  const { hiddenSize: D, vocabularySize: V } = head;
  const Q = a0.length;
  const g = new GraphBuilder("loss");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const targets = g.input("targets", "int32", ["N"]);
  const gates = g.input("gates", "float32", ["N", Q]);
  const bank = { a: g.input("a", "float32", [Q, D]), a0: g.constant(a0, [Q]), b: g.input("b", "float32", [Q, D]) };
  const { adapted } = addAdapter(g, hidden, bank, gates);
  const logits = g.node("Gemm", [adapted, g.constant(head.tokenEmbedding, [V, D])], { transB: 1 });
  // Not ReduceLogSumExp, which takes several times as long over a large vocabulary.
  const logprobs = g.node("LogSoftmax", [logits], { axis: 1 });
  const column = g.node("Unsqueeze", [targets, g.integers(1)]);
  const ofTarget = g.node("Squeeze", [g.node("GatherElements", [logprobs, column], { axis: 1 }), g.integers(1)]);
  g.output("nll", g.node("Neg", [ofTarget]), "float32", ["N"]);
  return g.bytes();
}

interface Tokens {
  hidden: string; // [N, D]
  targets: string; // [N]
  weight: string; // []
  /** Rows of the head, [V, D]. */
  rows: string;
}

function addTokens(g: GraphBuilder, { hiddenSize: D, vocabularySize: V, tokenEmbedding }: HeadWeights): Tokens {
  return {
    hidden: g.input("hidden", "float32", ["N", D]),
    targets: g.input("targets", "int32", ["N"]),
    weight: g.input("weight", "float32", []),
    rows: g.constant(tokenEmbedding, [V, D]),
  };
}

interface BankNodes {
  a: string; // [Q, D]
  a0: string; // [Q]
  b: string; // [Q, D]
}

export function constantBank(g: GraphBuilder, { gates: Q, a, a0, b }: Bank, D: number): BankNodes {
  return { a: g.constant(a, [Q, D]), a0: g.constant(a0, [Q]), b: g.constant(b, [Q, D]) };
}

/** p, u [N, Q] and `to` + Bᵀ·u [N, D]; gates [N, Q], or null for 1. */
export function addAdapter(
  g: GraphBuilder,
  hidden: string,
  { a, a0, b }: BankNodes,
  gates: string | null,
  to = hidden,
) {
  const p = g.node("Gemm", [hidden, a, a0], { transB: 1 });
  const u = gates ? g.node("Mul", [p, gates]) : p;
  return { p, u, adapted: g.node("Gemm", [u, b, to]) };
}

/** Outputs nll [N] and returns the gradient of the loss by `adapted`, [N, D], scaled by the weight. */
function addLoss(g: GraphBuilder, { targets, weight, rows }: Tokens, adapted: string): string {
  const probabilities = g.node("Softmax", [g.node("Gemm", [adapted, rows], { transB: 1 })], { axis: 1 }); // [N, V]
  const column = g.node("Unsqueeze", [targets, g.integers(1)]);
  const ofTarget = g.node("GatherElements", [probabilities, column], { axis: 1 }); // [N, 1]
  const nll = g.node("Neg", [g.node("Log", [g.node("Squeeze", [ofTarget, g.integers(1)])])]);
  g.output("nll", nll, "float32", ["N"]);
  const minusOnes = g.node("Sub", [ofTarget, g.node("Add", [ofTarget, g.scalar(1)])]);
  const dLogits = g.node("ScatterElements", [probabilities, column, minusOnes], { axis: 1, reduction: "add" });
  return g.node("Mul", [g.node("MatMul", [dLogits, rows]), weight]);
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
