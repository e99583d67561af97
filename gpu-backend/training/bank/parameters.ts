/** The trainable parameters of bank and hyper-network: shapes and initial values. */
import { type TensorFile, tensorFrom } from "../../../shared/artifacts/tensor-file.ts";
import { Random, streams } from "../random.ts";

export interface BankShape {
  gates: number; // Q = R + M
  rank: number; // R low-rank directions
  biases: number; // M bias directions
  hidden: number; // H of the hyper-network
  dimensions: number; // P
  a0: Float32Array; // [Q]: 0 for the R low-rank directions, 1 for the M bias directions
}

/** Row-major. */
export type Parameters = Map<ParameterName, Float32Array>;
export type ParameterName = "w1" | "b1" | "w2" | "b2" | "a" | "b";

export function bankShape(options: { rank: number; biases: number; hidden: number; dimensions: number }): BankShape {
  const gates = options.rank + options.biases;
  return { ...options, gates, a0: Float32Array.from({ length: gates }, (_, q) => (q < options.rank ? 0 : 1)) };
}

export function shapeOf(name: ParameterName, shape: BankShape, hiddenSize: number, vocabularySize: number): number[] {
  const { gates: Q, hidden: H, dimensions: P } = shape;
  return {
    w1: [H, P],
    b1: [H],
    w2: [Q, H],
    b2: [Q],
    a: [Q, hiddenSize],
    b: [Q, vocabularySize],
  }[name];
}

/** A ~ N(0, 1/D), B = 0 (so the delta starts at zero), gates ≈ 1 with a small dependence on the input. */
export function initialParameters(
  shape: BankShape,
  hiddenSize: number,
  vocabularySize: number,
  seed: number,
): Parameters {
  const random = new Random(seed, streams.initialise);
  const { gates: Q, rank: R, hidden: H, dimensions: P } = shape;
  const normals = (length: number, deviation: number) =>
    Float32Array.from({ length }, () => deviation * random.normal());
  const a = new Float32Array(Q * hiddenSize);
  a.set(normals(R * hiddenSize, Math.sqrt(1 / hiddenSize)));
  return new Map([
    ["w1", normals(H * P, Math.sqrt(1 / P))],
    ["b1", new Float32Array(H)],
    ["w2", normals(Q * H, 0.3 / Math.sqrt(H))],
    ["b2", new Float32Array(Q).fill(1)],
    ["a", a],
    ["b", new Float32Array(Q * vocabularySize)],
  ]);
}

/** The parameters as tensors, by the names that FORMAT.md gives them. */
export function parameterTensors(
  parameters: Parameters,
  shape: BankShape,
  hiddenSize: number,
  vocabularySize: number,
): TensorFile {
  const file: TensorFile = new Map();
  for (const [name, values] of parameters) {
    file.set(name, tensorFrom(values, shapeOf(name, shape, hiddenSize, vocabularySize)));
  }
  return file;
}
