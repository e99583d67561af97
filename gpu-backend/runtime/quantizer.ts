/**
 * int8 matrix products: weights are rounded once, with a scale per output column, and activations at run time, with a scale per row.
 * ONNX Runtime's own dynamic quantisation takes one scale over the whole batch, so that one sequence would change the logits of the
 * others. Here a row's bits do not depend on the other rows of its batch.
 */
import type { GraphBuilder } from "./graph.ts";

/** Activations become 1 to 255 around this zero point. With signed activations the CPU kernel is some 25 times slower. */
const zeroPoint = 128;
const steps = 127;
/**
 * Maximum sum of the weights in rows 2i and 2i + 1 of a column. Without VNNI instructions, the x64 kernel adds the products of two such
 * rows in 16 bits that saturate (VPMADDUBSW). With this bound they never do (255 × 128 = 32,640, below 32,767), so every processor
 * computes the same integers. It costs 0.0012 nats per token on the held-out and new texts of the embedded model; a bound of 64 on each
 * weight would cost 0.0043.
 */
export const largestPairSum = 128;

export interface QuantizedMatrix {
  /** [rows, columns], each column divided by its scale. */
  values: Int8Array;
  /** [columns] */
  scales: Float32Array;
}

/**
 * Rounds [rows, columns] to int8 with one symmetric scale per column: the smallest that keeps each weight within ±127 and each pair
 * within ±`largestPairSum`. A column of zeros has scale 1.
 */
export function quantizeColumns(matrix: Float32Array, rows: number, columns: number): QuantizedMatrix {
  const scales = new Float32Array(columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const weight = matrix[i * columns + j];
      // Scaled to 127, since rounding two weights adds at most 1 to their sum.
      const pair = i % 2 ? weight + matrix[(i - 1) * columns + j] : 0;
      scales[j] = Math.max(scales[j], Math.abs(weight), Math.abs(pair));
    }
  }
  for (let j = 0; j < columns; j++) scales[j] = scales[j] / steps || 1;
  const values = new Int8Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) values[i * columns + j] = Math.round(matrix[i * columns + j] / scales[j]);
  }
  return { values, scales };
}

/**
 * Returns a function that adds x·W to the graph: x [M, rows] float32 → [M, columns] float32, for any x with as many rows M as `like`.
 * All these products share one tensor of zero points.
 */
export function addQuantizedMatMuls(g: GraphBuilder, like: string): (x: string, w: QuantizedMatrix) => string {
  const zero = g.constant(Uint8Array.of(zeroPoint), []);
  const shape = g.node("Concat", [g.node("Shape", [like], { start: 0, end: 1 }), g.integers(1)], { axis: 0 });
  const zeroPoints = g.node("Expand", [zero, shape]); // [M, 1]
  return (x, { values, scales }) => {
    const columns = scales.length;
    const rows = values.length / columns;
    const rowMaximum = g.node("ReduceMax", [g.node("Abs", [x]), g.integers(-1)], { keepdims: 1 });
    const scale = g.node("Mul", [rowMaximum, g.scalar(1 / steps)]); // [M, 1]
    // One block per row. A row of zeros is 0 / 0 here, which rounds to some integer that the scale 0 multiplies in the end.
    const rounded = g.node("QuantizeLinear", [x, scale, zeroPoints], { axis: 1, block_size: rows });
    const kernel = [g.constant(values, [rows, columns]), g.scalar(1), g.constant(scales, [columns]), zero];
    return g.node("Mul", [g.node("com.microsoft:MatMulIntegerToFloat", [rounded, ...kernel]), scale]);
  };
}
