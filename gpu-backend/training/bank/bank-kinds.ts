/** The kinds that share one bank among all text: gated by the hyper-network, static, and an expert per cluster. */
import { tensor } from "../../runtime/session.ts";
import type { Kind } from "./kind.ts";
import {
  type BankParameterName,
  type BankShape,
  bankShape,
  initialParameters,
  shapeOf,
  trainableCount,
} from "./parameters.ts";
import { buildTrainingGraph, type GateSource, type HeadWeights } from "./training-graph.ts";

/** The hyper-network makes each window's gates. */
export function gatedKind(head: HeadWeights, shape: BankShape): Kind {
  const P = shape.dimensions;
  return {
    ...common(head, shape, "hyper-network"),
    feeds({ windows, windowOf }) {
      const embeddings = new Float32Array(windows.length * P);
      for (const [s, { embedding }] of windows.entries()) embeddings.set(embedding, s * P);
      return { embeddings: tensor(embeddings, [windows.length, P]), window_of: tensor(windowOf, [windowOf.length]) };
    },
  };
}

/** One adapter for all text. */
export function staticKind(head: HeadWeights, shape: BankShape): Kind {
  return { ...common(head, shape, "ones"), feeds: () => ({}) };
}

/** A low-rank pair and a bias for each cluster, trained on that cluster alone. */
export function expertsKind(head: HeadWeights, shape: BankShape, clusters: number): Kind {
  const Q = shape.gates;
  return {
    ...common(head, shape, "given"),
    feeds({ windows, windowOf }) {
      const gates = new Float32Array(windowOf.length * Q);
      const ofWindow = windows.map(({ cluster }) => expertGates(shape, clusters, cluster, 1));
      for (const [n, s] of windowOf.entries()) gates.set(ofWindow[s], n * Q);
      return { gates: tensor(gates, [windowOf.length, Q]) };
    },
  };
}

export function expertsShape(clusters: number, rank: number, dimensions: number): BankShape {
  return bankShape({ rank: clusters * rank, biases: clusters, hidden: 0, dimensions });
}

/** Gates [Q] that open cluster k's directions and its bias. */
export function expertGates(shape: BankShape, clusters: number, k: number, scale: number): Float32Array {
  const rank = shape.rank / clusters;
  const gates = new Float32Array(shape.gates);
  gates.fill(scale, k * rank, (k + 1) * rank);
  gates[shape.rank + k] = scale;
  return gates;
}

function common(head: HeadWeights, shape: BankShape, source: GateSource): Omit<Kind, "feeds"> {
  const { hiddenSize: D, vocabularySize: V } = head;
  const gated = source === "hyper-network";
  return {
    head,
    initial: (seed) => initialParameters(shape, D, V, seed, gated),
    shapeOf: (name) => shapeOf(name as BankParameterName, shape, D, V),
    trainable: trainableCount(shape, D, V, gated),
    graph: () => buildTrainingGraph(head, shape, source),
  };
}
