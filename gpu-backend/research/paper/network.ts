/**
 * The two adapters that the paper (arXiv 2502.04315) trains, with their gradients in closed form: static LoRA of the LM head, and the
 * hyper-network, which turns the mean embedding e of a batch into a low-rank pair [A | B]:
 *
 *   z₁ = m₁ ⊙ relu(w1·(√P·e) + b1),  z₂ = m₂ ⊙ relu(w2·z₁ + b2),  [A | B] = w3·z₂ + b3,  logits = W·h + Bᵀ·(A·h)
 *
 * m₁ and m₂ are dropout masks. The gradients by A and B come from pair-head.ts.
 * Shapes: P dimensions of the embedding, H hidden units, R rank, D hidden size, V vocabulary.
 */
import { joinArrays } from "../../../shared/bytes.ts";
import { type Activation, layersOf, networkPass } from "../../training/bank/network-pass.ts";
import { zerosLike } from "../../training/bank/parameters.ts";
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
      const relu: Activation = (x) => {
        const mask = random ? (random.uniform() < dropout ? 0 : 1 / (1 - dropout)) : 1;
        return x > 0 ? [x * mask, mask] : [0, 0];
      };
      const scaled = input.map((value) => Math.sqrt(P) * value);
      const { output, backward } = networkPass(layersOf(weights, 3), scaled, relu); // output [R·(D + V)]
      return {
        pair: { a: output.subarray(0, rank * D), b: output.subarray(rank * D) },
        backward({ a, b }) {
          const gradients = zerosLike(weights);
          backward(joinArrays(Float32Array, [a, b]), layersOf(gradients, 3));
          return gradients;
        },
      };
    },
  };
}
