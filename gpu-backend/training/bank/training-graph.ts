/**
 * The loss of a bank's directions and its gradients in closed form, as one ONNX graph. Hidden states are inputs, because adapters never
 * change them. Gates are inputs and their gradients outputs (trainer.ts).
 *
 *   p = A·h + a0,  u = p ⊙ g,  h' = h + Bᵀ·u,  logits = W·h',  loss = mean of −log softmax(logits)[target]
 *
 * with dh' = Wᵀ·(softmax(logits) − onehot(target)):
 *   dB = u·dh'ᵀ,  du = B·dh',  dp = du ⊙ g,  dA = dp·hᵀ,  dg = du ⊙ p
 *
 * The gates of a static adapter are 1. If a hyper-network is trained, the static adapter's Bᵀ·u is also added to h'. The softmax is over
 * the whole vocabulary. A softmax over candidate tokens would take a tenth of the time, but adapters would learn to raise all candidates
 * together, which measurably harms the loss.
 * Shapes: N tokens, V vocabulary, D hidden size, Q gates.
 */
import { GraphBuilder } from "../../runtime/graph.ts";
import { addBank } from "../../runtime/head-graph.ts";
import type { Bank } from "../../runtime/step.ts";

export interface HeadWeights {
  vocabularySize: number; // V
  hiddenSize: number; // D
  tokenEmbedding: Float32Array; // [V, D], the tied head
}

/**
 * Inputs: hidden [N, D], targets [N, 1], gates [N, Q], weight [] (1 / tokens of the whole step), a and b [Q, D]. Outputs: nll [N, 1], and
 * d_a, d_b [Q, D] and d_gates [N, Q] times `weight`. `a0` [Q]. `above`: the static adapter that a hyper-network adds to, or null.
 */
export function buildTrainingGraph(head: HeadWeights, a0: Float32Array, above: Bank | null): Uint8Array {
  const { hiddenSize: D, vocabularySize: V } = head;
  const Q = a0.length;
  const g = new GraphBuilder("training-step");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const targets = g.input("targets", "int32", ["N", 1]);
  const gates = g.input("gates", "float32", ["N", Q]);
  const weight = g.input("weight", "float32", []);
  const [a, b] = [g.input("a", "float32", [Q, D]), g.input("b", "float32", [Q, D])];
  const rows = g.constant(head.tokenEmbedding, [V, D]);

  const ones = above && g.constant(new Float32Array(above.gates).fill(1), [1, above.gates]);
  const under = ones ? addBank(g, head, above)(hidden, ones) : hidden;
  const p = g.node("Gemm", [hidden, a, g.constant(a0, [Q])], { transB: 1 });
  const u = g.node("Mul", [p, gates]);
  const adapted = g.node("Gemm", [u, b, under]);
  const probabilities = g.node("Softmax", [g.node("Gemm", [adapted, rows], { transB: 1 })], { axis: 1 }); // [N, V]
  const ofTarget = g.node("GatherElements", [probabilities, targets], { axis: 1 });
  g.output("nll", g.node("Neg", [g.node("Log", [ofTarget])]), "float32", ["N", 1]);

  const minusOnes = g.node("Sub", [ofTarget, g.node("Add", [ofTarget, g.scalar(1)])]);
  const dLogits = g.node("ScatterElements", [probabilities, targets, minusOnes], { axis: 1, reduction: "add" });
  const dAdapted = g.node("Mul", [g.node("MatMul", [dLogits, rows]), weight]); // [N, D]
  const dU = g.node("Gemm", [dAdapted, b], { transB: 1 });
  g.output("d_gates", g.node("Mul", [dU, p]), "float32", ["N", Q]);
  g.output("d_b", g.node("Gemm", [u, dAdapted], { transA: 1 }), "float32", [Q, D]);
  // Bias directions have no row of A to learn.
  const lowRank = g.node("Sub", [g.scalar(1), g.constant(a0, [Q, 1])]);
  const dA = g.node("Gemm", [g.node("Mul", [dU, gates]), hidden], { transA: 1 });
  g.output("d_a", g.node("Mul", [dA, lowRank]), "float32", [Q, D]);
  return g.bytes();
}
