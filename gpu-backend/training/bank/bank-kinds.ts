/** The kinds that share one bank among all text: gated by the hyper-network or by a table, static, and open by cluster. */
import { tensor } from "../../runtime/session.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import type { Kind } from "./kind.ts";
import {
  type BankParameterName,
  type BankShape,
  bankShape,
  initialParameters,
  type ParameterName,
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

/** A free table of gates, a row per cluster: what the hyper-network is without its network. */
export function tableKind(head: HeadWeights, shape: BankShape, clusters: number): Kind {
  const { gates: Q } = shape;
  const bank = common(head, shape, "table");
  return {
    ...bank,
    initial(seed) {
      const random = new Random(seed, streams.gateTable);
      const table = Float32Array.from({ length: clusters * Q }, () => 1 + tableDeviation * random.normal());
      return new Map<ParameterName, Float32Array>([...bank.initial(seed), ["g", table]]);
    },
    shapeOf: (name) => (name === "g" ? [clusters, Q] : bank.shapeOf(name)),
    trainable: bank.trainable + clusters * Q,
    feeds({ windows, windowOf }) {
      const choice = new Float32Array(windows.length * clusters);
      for (const [s, { cluster }] of windows.entries()) choice[s * clusters + cluster] = 1;
      return {
        choice: tensor(choice, [windows.length, clusters]),
        window_of: tensor(windowOf, [windowOf.length]),
      };
    },
  };
}

/** About what the untrained hyper-network's gates differ by between clusters. */
const tableDeviation = 0.1;

/** Directions that all text shares, and others that each cluster has for itself. */
export interface SharedAndOwn {
  clusters: number;
  sharedRank: number;
  sharedBiases: number;
  ownRank: number;
  /** 0 or 1. */
  ownBiases: number;
}

/** A bank in which a cluster opens the shared directions and its own: experts, biases per cluster, or both beside a static head. */
export function maskedShape(sizes: SharedAndOwn, dimensions: number): BankShape {
  const { clusters, sharedRank, sharedBiases, ownRank, ownBiases } = sizes;
  const [rank, biases] = [sharedRank + clusters * ownRank, sharedBiases + clusters * ownBiases];
  return bankShape({ rank, biases, hidden: 0, dimensions });
}

/** Gates [Q] that open what cluster k may use, in the order: shared ranks, own ranks, shared biases, own biases. */
export function maskOf(sizes: SharedAndOwn, k: number, scale: number): Float32Array {
  const { clusters, sharedRank, sharedBiases, ownRank, ownBiases } = sizes;
  const gates = new Float32Array(sharedRank + sharedBiases + clusters * (ownRank + ownBiases));
  const open = (from: number, count: number) => gates.fill(scale, from, from + count);
  open(0, sharedRank);
  open(sharedRank + k * ownRank, ownRank);
  const biases = sharedRank + clusters * ownRank;
  open(biases, sharedBiases);
  open(biases + sharedBiases + k * ownBiases, ownBiases);
  return gates;
}

export function maskedKind(head: HeadWeights, sizes: SharedAndOwn, dimensions: number): Kind {
  const shape = maskedShape(sizes, dimensions);
  const Q = shape.gates;
  return {
    ...common(head, shape, "given"),
    feeds({ windows, windowOf }) {
      const gates = new Float32Array(windowOf.length * Q);
      const ofWindow = windows.map(({ cluster }) => maskOf(sizes, cluster, 1));
      for (const [n, s] of windowOf.entries()) gates.set(ofWindow[s], n * Q);
      return { gates: tensor(gates, [windowOf.length, Q]) };
    },
  };
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
