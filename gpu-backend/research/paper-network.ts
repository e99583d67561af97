/**
 * The adapters of the paper (arXiv 2502.04315) and how one training step changes them: static LoRA of the LM head, and the
 * hyper-network that makes a low-rank pair from the mean embedding of a batch:
 *
 *   z₁ = m₁ ⊙ relu(w1·(√P·e) + b1),  z₂ = m₂ ⊙ relu(w2·z₁ + b2),  [A | B] = w3·z₂ + b3,  logits = W·h + Bᵀ·(A·h)
 *
 * m₁ and m₂ are dropout masks. Gradients are in closed form, as ONNX graphs; the head's part is in lora-head.ts.
 * Shapes: P dimensions of the embedding, H hidden units, R rank, D hidden size, V vocabulary.
 */
import { GraphBuilder } from "../runtime/graph.ts";
import { type Tensor, tensor } from "../runtime/session.ts";
import type { HeadWeights } from "../training/bank/training-graph.ts";
import { Random, streams } from "../training/random.ts";
import { addHead, addTokenInputs, type Pair } from "./lora-head.ts";

export const rank = 4;
const [H1, H2] = [64, 32];
const dropout = 0.5;

/** Named parameters, row-major. */
export type Weights = Map<string, Float32Array>;

export interface Trainable {
  shapes: Record<string, readonly number[]>;
  initial(seed: number): Weights;
  /** Graph of one step. Inputs: hidden [N, D], targets [N], weight [], the parameters, `feeds`. Outputs: nll [N], d_<parameter>. */
  graph(): Uint8Array;
  /** Inputs that depend on the batch. `input`: its mean embedding [P]. */
  feeds(input: Float32Array, random: Random): Record<string, Tensor>;
  /** The adapter of a batch, without dropout. */
  pairOf(weights: Weights, input: Float32Array): Pair;
}

/** One pair for all text. */
export function staticLora(head: HeadWeights): Trainable {
  const { hiddenSize: D, vocabularySize: V } = head;
  return {
    shapes: { a: [rank, D], b: [rank, V] },
    initial(seed) {
      const random = new Random(seed, streams.initialise);
      const a = Float32Array.from({ length: rank * D }, () => random.normal() / Math.sqrt(D));
      return new Map([
        ["a", a],
        ["b", new Float32Array(rank * V)],
      ]);
    },
    graph() {
      const g = new GraphBuilder("lora-step");
      const tokens = addTokenInputs(g, D);
      const [a, b] = [g.input("a", "float32", [rank, D]), g.input("b", "float32", [rank, V])];
      const { dP, dB } = addHead(g, head, tokens, { a, b });
      g.output("d_a", g.node("Gemm", [dP, tokens.hidden], { transA: 1 }), "float32", [rank, D]);
      g.output("d_b", dB, "float32", [rank, V]);
      return g.bytes();
    },
    feeds: () => ({}),
    pairOf: (weights) => ({ a: weights.get("a")!, b: weights.get("b")! }),
  };
}

/** The paper's hyper-network. Every layer starts uniform in ±1/√inputs, as in the published code. */
export function paperNetwork(head: HeadWeights, dimensions: number): Trainable {
  const { hiddenSize: D, vocabularySize: V } = head;
  const P = dimensions;
  const values = rank * (D + V);
  const shapes = { w1: [H1, P], b1: [H1], w2: [H2, H1], b2: [H2], w3: [values, H2], b3: [values] };
  return {
    shapes,
    initial(seed) {
      const random = new Random(seed, streams.initialise);
      const inputs: Record<string, number> = { w1: P, b1: P, w2: H1, b2: H1, w3: H2, b3: H2 };
      return new Map(
        Object.entries(shapes).map(([name, shape]) => {
          const bound = 1 / Math.sqrt(inputs[name]);
          return [name, Float32Array.from({ length: sizeOf(shape) }, () => bound * (2 * random.uniform() - 1))];
        }),
      );
    },
    graph: () => networkGraph(head, shapes, P),
    feeds(input, random) {
      const mask = (units: number) =>
        tensor(
          Float32Array.from({ length: units }, () => (random.uniform() < dropout ? 0 : 1 / (1 - dropout))),
          [1, units],
        );
      return { embedding: tensor(input, [1, P]), m1: mask(H1), m2: mask(H2) };
    },
    pairOf(weights, input) {
      const layer = (name: string, x: ArrayLike<number>) =>
        affine(weights.get(`w${name}`)!, weights.get(`b${name}`)!, x);
      const x = input.map((value) => Math.sqrt(P) * value);
      const made = layer("3", layer("2", layer("1", x).map(relu)).map(relu));
      return { a: made.subarray(0, rank * D), b: made.subarray(rank * D) };
    },
  };
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

function networkGraph(head: HeadWeights, shapes: Record<string, number[]>, P: number): Uint8Array {
  const { hiddenSize: D, vocabularySize: V } = head;
  const values = rank * (D + V);
  const g = new GraphBuilder("paper-network-step");
  const tokens = addTokenInputs(g, D);
  const embedding = g.input("embedding", "float32", [1, P]);
  const [m1, m2] = [g.input("m1", "float32", [1, H1]), g.input("m2", "float32", [1, H2])];
  const [w1, b1, w2, b2, w3, b3] = Object.entries(shapes).map(([name, shape]) => g.input(name, "float32", shape));

  const layer = (x: string, w: string, b: string, mask: string) => {
    const pre = g.node("Gemm", [x, w, b], { transB: 1 });
    const open = g.node("Cast", [g.node("Greater", [pre, g.scalar(0)])], { to: 1 });
    const slope = g.node("Mul", [open, mask]); // dz/dpre
    return { z: g.node("Mul", [pre, slope]), slope };
  };
  const input = g.node("Mul", [embedding, g.scalar(Math.sqrt(P))]);
  const first = layer(input, w1, b1, m1);
  const second = layer(first.z, w2, b2, m2);
  const made = g.node("Gemm", [second.z, w3, b3], { transB: 1 }); // [1, R·(D + V)]
  const part = (from: number, to: number, width: number) => {
    const columns = g.node("Slice", [made, g.integers(from), g.integers(to), g.integers(1)]);
    return g.node("Reshape", [columns, g.integers(rank, width)]);
  };
  const a = part(0, rank * D, D);
  const b = part(rank * D, values, V);
  const { dP, dB } = addHead(g, head, tokens, { a, b });
  const dA = g.node("Gemm", [dP, tokens.hidden], { transA: 1 });
  const row = (x: string) => g.node("Reshape", [x, g.integers(1, -1)]);
  const dMade = g.node("Concat", [row(dA), row(dB)], { axis: 1 }); // [1, R·(D + V)]
  const dSecond = g.node("Mul", [g.node("MatMul", [dMade, w3]), second.slope]); // [1, H₂]
  const dFirst = g.node("Mul", [g.node("MatMul", [dSecond, w2]), first.slope]); // [1, H₁]
  for (const [layerName, gradient, x] of [
    ["3", dMade, second.z],
    ["2", dSecond, first.z],
    ["1", dFirst, input],
  ]) {
    const [w, bias] = [`w${layerName}`, `b${layerName}`];
    g.output(`d_${w}`, g.node("Gemm", [gradient, x], { transA: 1 }), "float32", shapes[w]);
    g.output(`d_${bias}`, g.node("Reshape", [gradient, g.integers(-1)]), "float32", shapes[bias]);
  }
  return g.bytes();
}

/** W·x + b */
function affine(w: Float32Array, b: Float32Array, x: ArrayLike<number>): Float32Array {
  return b.map((bias, row) => {
    let sum = bias;
    for (let i = 0; i < x.length; i++) sum += w[row * x.length + i] * x[i];
    return sum;
  });
}

function relu(x: number): number {
  return Math.max(0, x);
}
