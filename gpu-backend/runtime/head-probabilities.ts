/**
 * Next-token probabilities of the base's head and the bank over given hidden states, for fitting adapters. Weights are fp32 whatever
 * the serving format.
 * Shapes: N positions, D hidden size, Q gates, V vocabulary, M chosen tokens.
 */
import { GraphBuilder } from "./graph.ts";
import { addBank } from "./head-graph.ts";
import { openSession, tensor } from "./session.ts";
import type { Bank } from "./step.ts";

export interface HeadProbabilities {
  /** Logprob of each target. */
  logprobs: Float32Array; // [N]
  /** Probability of each token, summed over the positions. */
  expected: Float64Array; // [V]
  /** Of the chosen tokens at each position. */
  probabilities: Float32Array; // [N, M]
}

export interface HeadSession {
  run(input: {
    hidden: Float32Array; // [N, D]
    targets: Int32Array; // [N]
    gates: Float32Array; // [Q]; zeros are the base
    chosen: Int32Array; // [M], at least one
  }): Promise<HeadProbabilities>;
  release(): Promise<void>;
}

/** Positions of one run: bounds the logits to some 25 MB at a vocabulary of 50,257. */
const runPositions = 128;

export async function openHeadSession(
  tokenEmbedding: Float32Array, // [V, D]
  hiddenSize: number,
  bank: Bank,
  threads: number,
): Promise<HeadSession> {
  const D = hiddenSize;
  const V = tokenEmbedding.length / D;
  const session = await openSession(buildHeadGraph(tokenEmbedding, D, bank), { threads });
  return {
    async run({ hidden, targets, gates, chosen }) {
      const N = targets.length;
      const M = chosen.length;
      const result = {
        logprobs: new Float32Array(N),
        expected: new Float64Array(V),
        probabilities: new Float32Array(N * M),
      };
      for (let at = 0; at < N; at += runPositions) {
        const rows = Math.min(runPositions, N - at);
        const outputs = await session.run({
          hidden: tensor(hidden.subarray(at * D, (at + rows) * D), [rows, D]),
          targets: tensor(targets.subarray(at, at + rows), [rows, 1]),
          ...(bank.gates > 0 && { gates: tensor(gates, [1, bank.gates]) }),
          chosen: tensor(chosen, [M]),
        });
        result.logprobs.set(outputs.logprobs.data as Float32Array, at);
        result.probabilities.set(outputs.probabilities.data as Float32Array, at * M);
        (outputs.expected.data as Float32Array).forEach((mass, id) => {
          result.expected[id] += mass;
        });
      }
      return result;
    },
    release: () => session.release(),
  };
}

function buildHeadGraph(tokenEmbedding: Float32Array, D: number, bank: Bank): Uint8Array {
  const V = tokenEmbedding.length / D;
  const g = new GraphBuilder("head");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const targets = g.input("targets", "int32", ["N", 1]);
  const chosen = g.input("chosen", "int32", ["M"]);
  const adapted = addBank(
    g,
    { hiddenSize: D },
    bank,
  )(hidden, bank.gates > 0 ? g.input("gates", "float32", [1, bank.gates]) : "");
  const logits = g.node("Gemm", [adapted, g.constant(tokenEmbedding, [V, D])], { transB: 1 });
  const probabilities = g.node("Softmax", [logits], { axis: 1 });
  // Not ReduceLogSumExp, which takes several times as long over a large vocabulary.
  const logprobs = g.node("LogSoftmax", [logits], { axis: 1 });
  const ofTarget = g.node("GatherElements", [logprobs, targets], { axis: 1 });
  g.output("logprobs", g.node("Squeeze", [ofTarget, g.integers(1)]), "float32", ["N"]);
  g.output("expected", g.node("ReduceSum", [probabilities, g.integers(0)], { keepdims: 0 }), "float32", [V]);
  g.output("probabilities", g.node("Gather", [probabilities, chosen], { axis: 1 }), "float32", ["N", "M"]);
  return g.bytes();
}
