/** Computes prompt embeddings, and ranks centroids by similarity to them. Shapes: V vocabulary, P dimensions, K centroids. */
import { edgeTableFile } from "../artifacts/manifest.ts";
import { requireFloats, requireTensor, type TensorFile } from "../artifacts/tensor-file.ts";

export interface EdgeTable {
  vocabularySize: number; // V
  dimensions: number; // P
  rows: Int8Array; // [V, P]
  /** Row v has the values `rows[v] · rowScales[v]`. */
  rowScales: Float32Array; // [V]
}

export interface CentroidVectors {
  count: number; // K
  dimensions: number; // P
  vectors: Float32Array; // [K, P], each of length 1
}

/** Maximum distance of a centroid's squared length from 1. */
const lengthTolerance = 1e-3;

/** `file`: content of edge-table.safetensors. Throws an Error that names the bad tensor. */
export function readEdgeTable(file: TensorFile): { table: EdgeTable; centroids: CentroidVectors } {
  const { shape, bytes } = requireTensor(file, "table", "I8", [null, null], edgeTableFile);
  const [vocabularySize, dimensions] = shape;
  const rowScales = requireFloats(file, "table_scale", [vocabularySize], edgeTableFile);
  const vectors = requireFloats(file, "centroids", [null, dimensions], edgeTableFile);
  const centroids = { count: dimensions > 0 ? vectors.length / dimensions : 0, dimensions, vectors };
  requireUnitLength(centroids);
  const rows = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { table: { vocabularySize, dimensions, rows, rowScales }, centroids };
}

function requireUnitLength({ count, dimensions, vectors }: CentroidVectors): void {
  for (let k = 0; k < count; k++) {
    const squares = vectors.subarray(k * dimensions, (k + 1) * dimensions).reduce((sum, x) => sum + x * x, 0);
    if (Math.abs(squares - 1) <= lengthTolerance) continue;
    throw new Error(`${edgeTableFile}: centroids: the length of row ${k} is ${Math.sqrt(squares)}, it must be 1`);
  }
}

/** The mean of the tokens' rows, scaled to length 1, [P]; zeros stay zeros. Throws a RangeError for an id outside the vocabulary. */
export function promptEmbedding(tokenIds: ArrayLike<number>, table: EdgeTable): Float32Array<ArrayBuffer> {
  const { vocabularySize, dimensions, rows, rowScales } = table;
  // The sum has the same direction as the mean.
  const sum = new Float64Array(dimensions);
  for (let t = 0; t < tokenIds.length; t++) {
    const id = tokenIds[t];
    if (!(id >= 0 && id < vocabularySize)) {
      throw new RangeError(`token id ${id} is not in the vocabulary of ${vocabularySize}`);
    }
    const scale = rowScales[id];
    const row = id * dimensions;
    for (let p = 0; p < dimensions; p++) sum[p] += scale * rows[row + p];
  }
  let squares = 0;
  for (let p = 0; p < dimensions; p++) squares += sum[p] * sum[p];
  const length = Math.sqrt(squares);
  const embedding = new Float32Array(dimensions);
  if (length > 0) for (let p = 0; p < dimensions; p++) embedding[p] = sum[p] / length;
  return embedding;
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let p = 0; p < a.length; p++) sum += a[p] * b[p];
  return sum;
}

/** Ranks centroids by their cosine to `embedding` [P], best first. Ties go to the lower index. */
export function rankCentroids(embedding: Float32Array, centroids: CentroidVectors) {
  const { count, dimensions, vectors } = centroids;
  const ranked = Array.from({ length: count }, (_, index) => {
    const centroid = vectors.subarray(index * dimensions, (index + 1) * dimensions);
    return { index, similarity: dot(embedding, centroid) };
  });
  return ranked.sort((a, b) => b.similarity - a.similarity || a.index - b.index);
}
