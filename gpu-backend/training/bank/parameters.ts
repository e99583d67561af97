/** The trainable parameters of a static adapter and of the hyper-network with its bank: shapes and initial values. */
import { joinArrays } from "../../../shared/bytes.ts";
import type { HyperNetwork } from "../../adapters/generated/hyper-network.ts";
import type { Bank } from "../../runtime/step.ts";
import { Random, streams } from "../random.ts";

export interface BankShape {
  gates: number; // Q = R + M
  rank: number; // R low-rank directions
  biases: number; // M bias directions
  hidden: number; // H of the hyper-network; 0 of a static adapter
  dimensions: number; // P; 0 of a static adapter
  a0: Float32Array; // [Q]: 0 for the R low-rank directions, 1 for the M bias directions
}

/** Row-major. */
export type Parameters = Map<ParameterName, Float32Array>;
export type ParameterName = "w1" | "b1" | "w2" | "b2" | "a" | "b";

export function bankShape(options: { rank: number; biases: number; hidden?: number; dimensions?: number }): BankShape {
  const { rank, biases, hidden = 0, dimensions = 0 } = options;
  const gates = rank + biases;
  const a0 = Float32Array.from({ length: gates }, (_, q) => (q < rank ? 0 : 1));
  return { rank, biases, hidden, dimensions, gates, a0 };
}

/** A ~ N(0, 1/D); B = 0, so the change starts at zero. A hyper-network's gates start near 1 and vary little with the input. */
export function initialParameters(shape: BankShape, hiddenSize: number, seed: number): Parameters {
  const random = new Random(seed, streams.initialise);
  const { gates: Q, rank: R, hidden: H, dimensions: P } = shape;
  const normals = (length: number, deviation: number) =>
    Float32Array.from({ length }, () => deviation * random.normal());
  const a = new Float32Array(Q * hiddenSize);
  a.set(normals(R * hiddenSize, Math.sqrt(1 / hiddenSize)));
  const bank: Parameters = new Map([
    ["a", a],
    ["b", new Float32Array(Q * hiddenSize)],
  ]);
  if (H === 0) return bank;
  return new Map([
    ["w1", normals(H * P, Math.sqrt(1 / P))],
    ["b1", new Float32Array(H)],
    ["w2", normals(Q * H, 0.3 / Math.sqrt(H))],
    ["b2", new Float32Array(Q).fill(1)],
    ...bank,
  ]);
}

/** A trained adapter of one kind: its directions, and for each of their gates what makes it. */
export interface Trained {
  shape: BankShape;
  parameters: Parameters;
}

/** The bank and the network that are served: directions of the static adapter, then those of the hyper-network. */
export interface ServedParameters {
  bank: Bank;
  network: HyperNetwork;
}

export function staticBank({ shape, parameters }: Trained): Bank {
  return { gates: shape.gates, a: parameters.get("a")!, a0: shape.a0, b: parameters.get("b")! };
}

/** Static gates are 1 for the directions of the static adapter and 0 for those of the hyper-network; generated ones the reverse. */
export function servedParameters(fixed: Trained, generated: Trained): ServedParameters {
  const [under, over] = [staticBank(fixed), staticBank(generated)];
  const gates = under.gates + over.gates;
  const { hidden: H, dimensions: P } = generated.shape;
  const of = (name: ParameterName) => generated.parameters.get(name)!;
  const w2 = new Float32Array(gates * H);
  w2.set(of("w2"), under.gates * H);
  const zeros = new Float32Array(under.gates);
  return {
    bank: { gates, a: joined(under.a, over.a), a0: joined(under.a0, over.a0), b: joined(under.b, over.b) },
    network: {
      ...{ dimensions: P, hidden: H, gates },
      ...{ w1: of("w1"), b1: of("b1"), w2, b2: joined(zeros, of("b2")) },
      staticGates: joined(new Float32Array(under.gates).fill(1), new Float32Array(over.gates)),
    },
  };
}

function joined(...parts: Float32Array[]): Float32Array {
  return joinArrays(Float32Array, parts);
}
