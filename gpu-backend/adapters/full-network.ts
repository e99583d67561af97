/**
 * The full hyper-network, the paper's kind (arXiv 2502.04315): a centroid in, a low-rank pair of its own out.
 * Of the paper's layers nothing is changed but the input, which is the centroid and not the mean of a batch, and
 * dropout, which serving has none of. Not here: when to compute, and how long to keep what comes out.
 * Shapes: P dimensions of the centroid, H₁ and H₂ hidden units, R rank, D hidden size, V vocabulary.
 */
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { Directions } from "./adapter.ts";
import { floatsOf } from "./hyper-network.ts";

export interface FullNetwork {
  dimensions: number; // P
  hidden: readonly [number, number]; // H₁, H₂
  rank: number; // R
  hiddenSize: number; // D
  vocabularySize: number; // V
  w1: Float32Array; // [H₁, P]
  b1: Float32Array; // [H₁]
  w2: Float32Array; // [H₂, H₁]
  b2: Float32Array; // [H₂]
  w3: Float32Array; // [R·(D + V), H₂]
  b3: Float32Array; // [R·(D + V)]
}

/**
 * Multiply-adds between two pauses: some 1.6 ms. A step meets two or three pauses, so a pair of GPT-2's size (7 slices)
 * is there after three steps of 25 ms (int8, 8 rows), each some 15% longer, instead of one of them by 11 ms.
 */
const sliceProducts = 2 ** 20;

/** Reads the network from hyper-network.safetensors. Throws an Error that names the tensor at fault. */
export function readFullNetwork(
  file: TensorFile,
  shape: Pick<FullNetwork, "dimensions" | "hidden" | "rank" | "hiddenSize" | "vocabularySize">,
): FullNetwork {
  const { dimensions: P, rank: R, hiddenSize: D, vocabularySize: V } = shape;
  const [first, second] = shape.hidden;
  return {
    ...shape,
    w1: floatsOf(file, "w1", [first, P]),
    b1: floatsOf(file, "b1", [first]),
    w2: floatsOf(file, "w2", [second, first]),
    b2: floatsOf(file, "b2", [second]),
    w3: floatsOf(file, "w3", [R * (D + V), second]),
    b3: floatsOf(file, "b3", [R * (D + V)]),
  };
}

/**
 * The directions of a centroid [P]: W₃·relu(W₂·relu(W₁·(√P·c) + b₁) + b₂) + b₃, whose first R·D values are A [R, D],
 * and the others, times `scale`, B [R, V]. Yields after each slice of the work; slicing changes no bit.
 */
export function* directionsOf(
  network: FullNetwork,
  centroid: Float32Array,
  scale: number,
): Generator<void, Directions> {
  const { dimensions: P, rank: R, hiddenSize: D, w3, b3 } = network;
  if (centroid.length !== P) throw new Error(`centroid of ${centroid.length} dimensions, the hyper-network takes ${P}`);
  const x = Float64Array.from(centroid, (value) => Math.sqrt(P) * value);
  const hidden = rectified(network.w2, network.b2, rectified(network.w1, network.b1, x));
  const values = new Float32Array(b3.length);
  const sliceRows = Math.max(1, Math.floor(sliceProducts / hidden.length));
  for (let start = 0; start < values.length; start += sliceRows) {
    if (start > 0) yield;
    const end = Math.min(start + sliceRows, values.length);
    for (let row = start; row < end; row++) values[row] = (row < R * D ? 1 : scale) * rowSum(w3, b3, hidden, row);
  }
  return { rank: R, a: values.subarray(0, R * D), b: values.subarray(R * D) };
}

/** relu(W·x + b) */
function rectified(w: Float32Array, b: Float32Array, x: Float64Array): Float64Array {
  return Float64Array.from(b, (_, row) => Math.max(0, rowSum(w, b, x, row)));
}

/** (W·x + b)[row] */
function rowSum(w: Float32Array, b: Float32Array, x: Float64Array, row: number): number {
  const width = x.length;
  let sum = b[row];
  for (let i = 0, at = row * width; i < width; i++) sum += w[at + i] * x[i];
  return sum;
}
