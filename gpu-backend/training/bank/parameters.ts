import { joinArrays } from "../../../shared/bytes.ts";
import type { HyperNetwork } from "../../adapters/generated/hyper-network.ts";
import type { Bank } from "../../runtime/step.ts";
import { Random, streams } from "../random.ts";

/** A static adapter has H = P = 0, because its gates are constant. */
export interface BankShape {
  gates: number; // Q = R + M
  rank: number; // R low-rank directions
  biases: number; // M bias directions
  hidden: number; // H, hidden units of the hyper-network
  dimensions: number; // P, dimensions of its input
  a0: Float32Array; // [Q]: 0 for the R low-rank directions, 1 for the M bias directions
}

/** By name, row-major. */
export type Parameters = Map<ParameterName, Float32Array>;
export type ParameterName = "w1" | "b1" | "w2" | "b2" | "a" | "b";

export function bankShape(options: { rank: number; biases: number; hidden?: number; dimensions?: number }): BankShape {
  const { rank, biases, hidden = 0, dimensions = 0 } = options;
  const gates = rank + biases;
  const a0 = Float32Array.from({ length: gates }, (_, q) => (q < rank ? 0 : 1));
  return { rank, biases, hidden, dimensions, gates, a0 };
}

export function zerosLike<Name>(values: ReadonlyMap<Name, Float32Array>): Map<Name, Float32Array> {
  return new Map([...values].map(([name, { length }]) => [name, new Float32Array(length)]));
}

/** A ~ N(0, 1/D). B = 0, so adapters change nothing at first. A hyper-network's gates are near 1 at first and vary little. */
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

export interface Trained {
  shape: BankShape;
  parameters: Parameters;
}

export type ServedParameters = ReturnType<typeof servedParameters>;

export function staticBank({ shape, parameters }: Trained): Bank {
  return { gates: shape.gates, a: parameters.get("a")!, a0: shape.a0, b: parameters.get("b")! };
}

/** Joins two banks. Directions of `fixed` get static gates 1 and generated gates 0, directions of `generated` static gates 0. */
export function servedParameters(fixed: Trained, generated: Trained): { bank: Bank; network: HyperNetwork } {
  const [under, over] = [staticBank(fixed), staticBank(generated)];
  const gates = under.gates + over.gates;
  const { hidden: H, dimensions: P } = generated.shape;
  const of = (name: ParameterName) => generated.parameters.get(name)!;
  const w2 = new Float32Array(gates * H);
  w2.set(of("w2"), under.gates * H);
  const b2 = new Float32Array(gates);
  b2.set(of("b2"), under.gates);
  const joined = (name: "a" | "a0" | "b") => joinArrays(Float32Array, [under[name], over[name]]);
  return {
    bank: { gates, a: joined("a"), a0: joined("a0"), b: joined("b") },
    network: {
      ...{ dimensions: P, hidden: H, gates, w1: of("w1"), b1: of("b1"), w2, b2 },
      staticGates: new Float32Array(gates).fill(1, 0, under.gates),
    },
  };
}
