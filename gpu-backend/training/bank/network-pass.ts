/** The hyper-network over several inputs at once, and the gradients of its layers in closed form. Serving: adapters/generated. */
import { Matrix } from "ml-matrix";
import type { BankShape, ParameterName, Parameters } from "./parameters.ts";

/** c and k of gelu_new: ½x(1 + tanh(c(x + kx³))). */
const c = Math.sqrt(2 / Math.PI);
const k = 0.044715;

export interface NetworkPass {
  /** Of each input, [S, Q]. */
  gates: Float32Array;
  /** Gradients by the layers, from those by the gates [S, Q]. */
  backward(dGates: Float32Array): [ParameterName, Float32Array][];
}

/** gates = w2·z + b2, z = gelu(pre), pre = w1·(√P·e) + b1 for each input e [P] of S. */
export function networkPass(
  { gates: Q, hidden: H, dimensions: P }: BankShape,
  parameters: Parameters,
  inputs: readonly Float32Array[],
): NetworkPass {
  const of = (name: ParameterName) => parameters.get(name)!;
  const w2 = Matrix.from1DArray(Q, H, of("w2"));
  const x = new Matrix(inputs.map((input) => Array.from(input, (value) => Math.sqrt(P) * value))); // [S, P]
  const pre = x.mmul(Matrix.from1DArray(H, P, of("w1")).transpose()).addRowVector(of("b1")); // [S, H]
  const tanh = Matrix.tanh(eachOf(pre, (value) => c * (value + k * value ** 3)));
  const z = eachOf(pre, (value, s, h) => 0.5 * value * (1 + tanh.get(s, h)));
  return {
    gates: floatsOf(z.mmul(w2.transpose()).addRowVector(of("b2"))),
    backward(dGates) {
      const dG = Matrix.from1DArray(inputs.length, Q, dGates);
      const dZ = dG.mmul(w2);
      // gelu' = ½(1 + t) + ½x(1 − t²)·c(1 + 3kx²)
      const dPre = eachOf(pre, (value, s, h) => {
        const t = tanh.get(s, h);
        return dZ.get(s, h) * 0.5 * (1 + t + value * (1 - t * t) * c * (1 + 3 * k * value * value));
      });
      return [
        ["w1", floatsOf(dPre.transpose().mmul(x))],
        ["b1", Float32Array.from(dPre.sum("column"))],
        ["w2", floatsOf(dG.transpose().mmul(z))],
        ["b2", Float32Array.from(dG.sum("column"))],
      ];
    },
  };
}

function eachOf(matrix: Matrix, of: (value: number, row: number, column: number) => number): Matrix {
  return new Matrix(matrix.to2DArray().map((values, row) => values.map((value, column) => of(value, row, column))));
}

function floatsOf(matrix: Matrix): Float32Array {
  return Float32Array.from(matrix.to1DArray());
}
