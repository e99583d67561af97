/**
 * int8 linear layers: weights rounded once with a scale per output column, activations at run time with a scale per row.
 * A scale per row, because ONNX Runtime's own dynamic quantisation takes one over the whole batch, and then a mate
 * changes everybody's logits. Every step below treats rows alone, so a row's bits do not depend on its mates.
 */
import type { GraphBuilder } from "./graph.ts";

/** Activations go to 1..255 around this zero point: with signed activations the CPU kernel is some 25 times slower. */
const zeroPoint = 128;
const steps = 127;

export interface QuantizedMatrix {
  /** [rows, columns], each column divided by its scale. */
  values: Int8Array;
  /** [columns] */
  scales: Float32Array;
}

/** Rounds [rows, columns] to int8 with one symmetric scale per column. A column of zeros keeps scale 1. */
export function quantizeColumns(matrix: Float32Array, rows: number, columns: number): QuantizedMatrix {
  const scales = new Float32Array(columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) scales[j] = Math.max(scales[j], Math.abs(matrix[i * columns + j]));
  }
  for (let j = 0; j < columns; j++) scales[j] = scales[j] / steps || 1;
  const values = new Int8Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) values[i * columns + j] = Math.round(matrix[i * columns + j] / scales[j]);
  }
  return { values, scales };
}

/** Adds x·W to the graph: x [M, rows] float32 → [M, columns] float32. */
export function addQuantizedMatMul(g: GraphBuilder, x: string, w: QuantizedMatrix): string {
  const columns = w.scales.length;
  const rowMaximum = g.node("Max", [
    g.node("ReduceMax", [g.node("Abs", [x]), g.integers(-1)], { keepdims: 1 }),
    g.scalar(1e-30), // a row of zeros would be 0 / 0
  ]);
  const step = g.scalar(1 / steps);
  const zero = g.constant(Uint8Array.of(zeroPoint), []);
  const rounded = g.node("QuantizeLinear", [g.node("Div", [x, rowMaximum]), step, zero]);
  const product = g.node("com.microsoft:MatMulIntegerToFloat", [
    rounded,
    g.constant(w.values, [w.values.length / columns, columns]),
    step,
    g.constant(w.scales, [columns]),
    zero,
  ]);
  return g.node("Mul", [product, rowMaximum]);
}
