/**
 * The two adapters that the paper (arXiv 2502.04315) trains, with gradients in closed form: static LoRA of the LM head, and the
 * hyper-network, which turns the mean embedding e of a batch into a low-rank pair [A | B]:
 *
 *   z₁ = m₁ ⊙ relu(w1·(√P·e) + b1),  z₂ = m₂ ⊙ relu(w2·z₁ + b2),  [A | B] = w3·z₂ + b3,  logits = W·h + Bᵀ·(A·h)
 *
 * m₁ and m₂ are dropout masks. B has a column for each of the V vocabulary entries, unlike in the served adapters (training-graph.ts).
 * Shapes: N tokens, P dimensions of the embedding, H hidden units, R rank, D hidden size, V vocabulary.
 */
import { joinArrays } from "../../../shared/bytes.ts";
import { GraphBuilder } from "../../runtime/graph.ts";
import { openSession, tensor } from "../../runtime/session.ts";
import { type Activation, layersOf, networkPass } from "../../training/bank/network-pass.ts";
import { zerosLike } from "../../training/bank/parameters.ts";
import type { HeadWeights } from "../../training/bank/training-graph.ts";
import { Random, streams } from "../../training/random.ts";

export const rank = 4;
const [H1, H2] = [64, 32];
const dropout = 0.5;

/** By name, row-major. */
export type Weights = Map<string, Float32Array>;

export interface Trainable {
  initial(seed: number): Weights;
  /** `input` [P] is the mean embedding of the batch. Without `random` there is no dropout. */
  forward(weights: Weights, input: Float32Array, random?: Random): Made;
}

interface Made {
  pair: Pair;
  /** Turns gradients by the pair into gradients by the parameters. */
  backward(gradients: Pair): Weights;
}

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

/** Weights start uniform in ±1/√(inputs of the layer), as in the paper's published code. */
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

/** A low-rank update of rank R: it adds (h·Aᵀ)·B to the logits. */
interface Pair {
  a: Float32Array; // [R, D]
  b: Float32Array; // [R, V]
}

export type PairHead = Awaited<ReturnType<typeof openPairHead>>;

export async function openPairHead(head: HeadWeights, threads: number) {
  const { hiddenSize: D, vocabularySize: V } = head;
  const session = await openSession(buildPairGraph(head), { threads });
  return {
    /** Loss of each target [N] after hidden states [N, D], in nats, and gradients of the mean loss by the pair. */
    async run(hidden: Float32Array, targets: Int32Array, { a, b }: Pair) {
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
function buildPairGraph({ hiddenSize: D, vocabularySize: V, tokenEmbedding }: HeadWeights): Uint8Array {
  const g = new GraphBuilder("pair");
  const [hidden, targets] = [g.input("hidden", "float32", ["N", D]), g.input("targets", "int32", ["N"])];
  const weight = g.input("weight", "float32", []);
  const [a, b] = [g.input("a", "float32", [rank, D]), g.input("b", "float32", [rank, V])];
  const base = g.node("Gemm", [hidden, g.constant(tokenEmbedding, [V, D])], { transB: 1 });
  const p = g.node("Gemm", [hidden, a], { transB: 1 });
  const logprobs = g.node("LogSoftmax", [g.node("Gemm", [p, b, base])], { axis: 1 }); // [N, V]
  const column = g.node("Unsqueeze", [targets, g.integers(1)]);
  const ofTarget = g.node("GatherElements", [logprobs, column], { axis: 1 }); // [N, 1]
  g.output("nll", g.node("Neg", [g.node("Squeeze", [ofTarget, g.integers(1)])]), "float32", ["N"]);

  const minusOnes = g.node("Sub", [ofTarget, g.node("Add", [ofTarget, g.scalar(1)])]);
  const probabilities = g.node("Exp", [logprobs]);
  const dLogits = g.node("ScatterElements", [probabilities, column, minusOnes], { axis: 1, reduction: "add" });
  g.output("d_b", g.node("Gemm", [g.node("Mul", [p, weight]), dLogits], { transA: 1 }), "float32", [rank, V]);
  const dP = g.node("Mul", [g.node("Gemm", [dLogits, b], { transB: 1 }), weight]);
  g.output("d_a", g.node("Gemm", [dP, hidden], { transA: 1 }), "float32", [rank, D]);
  return g.bytes();
}
