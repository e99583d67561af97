/**
 * The two adapters that the paper (arXiv 2502.04315) trains, with their gradients in closed form: static LoRA of the LM head, and the
 * hyper-network, which turns the mean embedding e of a batch into a low-rank pair [A | B]:
 *
 *   z₁ = m₁ ⊙ relu(w1·(√P·e) + b1),  z₂ = m₂ ⊙ relu(w2·z₁ + b2),  [A | B] = w3·z₂ + b3,  logits = W·h + Bᵀ·(A·h)
 *
 * m₁ and m₂ are dropout masks. The gradients by A and B come from pair-head.ts.
 * Shapes: P dimensions of the embedding, H hidden units, R rank, D hidden size, V vocabulary.
 */
import type { HeadWeights } from "../../training/bank/training-graph.ts";
import { Random, streams } from "../../training/random.ts";
import type { Pair } from "./pair-head.ts";

export const rank = 4;
const [H1, H2] = [64, 32];
const dropout = 0.5;

/** Parameters by name, row-major. */
export type Weights = Map<string, Float32Array>;

export interface Trainable {
  initial(seed: number): Weights;
  /** The adapter of a batch with mean embedding `input` [P]. `random` draws the dropout masks; without it there is no dropout. */
  forward(weights: Weights, input: Float32Array, random?: Random): Made;
}

export interface Made {
  pair: Pair;
  /** Gradients of the loss with respect to the parameters, from its gradients with respect to the pair. */
  backward(gradients: Pair): Weights;
}

/** Static LoRA: the same trained pair for all text. */
export function staticLora({ hiddenSize: D, vocabularySize: V }: HeadWeights): Trainable {
  const weightsOf = ({ a, b }: Pair): Weights => new Map(Object.entries({ a, b }));
  return {
    initial(seed) {
      const random = new Random(seed, streams.initialise);
      const a = Float32Array.from({ length: rank * D }, () => random.normal() / Math.sqrt(D));
      return weightsOf({ a, b: new Float32Array(rank * V) });
    },
    forward: (weights) => ({ pair: { a: weights.get("a")!, b: weights.get("b")! }, backward: weightsOf }),
  };
}

/** The paper's hyper-network. Its weights start uniform in ±1/√(inputs of the layer), as in the published code. */
export function paperNetwork({ hiddenSize: D, vocabularySize: V }: HeadWeights, P: number): Trainable {
  return {
    initial(seed) {
      const random = new Random(seed, streams.initialise);
      const weights: Weights = new Map();
      const sizes = [P, H1, H2, rank * (D + V)];
      for (const [i, inputs] of sizes.slice(0, -1).entries()) {
        const draw = () => (2 * random.uniform() - 1) / Math.sqrt(inputs);
        const outputs = sizes[i + 1];
        weights.set(`w${i + 1}`, Float32Array.from({ length: outputs * inputs }, draw));
        weights.set(`b${i + 1}`, Float32Array.from({ length: outputs }, draw));
      }
      return weights;
    },
    forward(weights, input, random) {
      const of = (name: string) => weights.get(name)!;
      const rectified = (name: string, x: Float32Array) => {
        const pre = affine(of(`w${name}`), of(`b${name}`), x);
        const mask = pre.map(() => (random ? (random.uniform() < dropout ? 0 : 1 / (1 - dropout)) : 1));
        const slope = pre.map((value, unit) => (value > 0 ? mask[unit] : 0)); // dz/dpre
        return { z: pre.map((value, unit) => value * slope[unit]), slope };
      };
      const scaled = input.map((value) => Math.sqrt(P) * value);
      const first = rectified("1", scaled);
      const second = rectified("2", first.z);
      const made = affine(of("w3"), of("b3"), second.z); // [R·(D + V)]
      return {
        pair: { a: made.subarray(0, rank * D), b: made.subarray(rank * D) },
        backward({ a, b }) {
          const dMade = new Float32Array(made.length);
          dMade.set(a);
          dMade.set(b, a.length);
          const dSecond = transposedProduct(of("w3"), dMade, H2).map((value, unit) => value * second.slope[unit]);
          const dFirst = transposedProduct(of("w2"), dSecond, H1).map((value, unit) => value * first.slope[unit]);
          return new Map([
            ...[["w1", outerProduct(dFirst, scaled)] as const, ["b1", dFirst] as const],
            ...[["w2", outerProduct(dSecond, first.z)] as const, ["b2", dSecond] as const],
            ...[["w3", outerProduct(dMade, second.z)] as const, ["b3", dMade] as const],
          ]);
        },
      };
    },
  };
}

/** W·x + b */
function affine(w: Float32Array, b: Float32Array, x: Float32Array): Float32Array {
  return b.map((bias, row) => {
    let sum = bias;
    for (let i = 0; i < x.length; i++) sum += w[row * x.length + i] * x[i];
    return sum;
  });
}

/** Wᵀ·y for a row-major W with `columns` columns. */
function transposedProduct(w: Float32Array, y: Float32Array, columns: number): Float32Array {
  const result = new Float32Array(columns);
  for (let row = 0; row < y.length; row++) {
    for (let i = 0; i < columns; i++) result[i] += w[row * columns + i] * y[row];
  }
  return result;
}

/** y·xᵀ */
function outerProduct(y: Float32Array, x: Float32Array): Float32Array {
  return Float32Array.from({ length: y.length * x.length }, (_, i) => y[Math.floor(i / x.length)] * x[i % x.length]);
}
