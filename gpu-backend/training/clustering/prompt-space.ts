/**
 * Fits the prompt embedding: mean of token-embedding rows − corpus mean, half-whitened (λ^-¼), projected to P
 * dimensions. All of it is linear in the token rows, so it folds into one V×P int8 table, which the edge looks up.
 * Half-whitening: between PCA (λ⁰: a few common directions drown the rest) and whitening (λ^-½: noise is blown up).
 */
import type { EdgeTable } from "../../../shared/math/assignment.ts";
import { symmetricEigen } from "./eigen.ts";

export interface PromptSpace {
  dimensions: number; // P
  mean: Float32Array; // [D]
  transform: Float32Array; // [D, P]
}

/** Directions with less than this share of the largest variance are noise: whitening stops there. */
const varianceFloor = 1e-6;

/**
 * @param tokenEmbedding [V, D]
 * @param prefixes token ids of the training prefixes: mean and covariance are those of their mean embeddings.
 */
export function fitPromptSpace(
  tokenEmbedding: Float32Array,
  hiddenSize: number,
  prefixes: readonly Int32Array[],
  dimensions: number,
): PromptSpace {
  const D = hiddenSize;
  const P = dimensions;
  if (P > D) throw new Error(`a prompt embedding of ${P} dimensions does not fit a model of width ${D}`);
  const points = prefixes.map((ids) => meanEmbedding(tokenEmbedding, D, ids));
  const mean = new Float64Array(D);
  for (const point of points) for (let d = 0; d < D; d++) mean[d] += point[d] / points.length;
  const { values, vectors } = symmetricEigen(covariance(points, mean), D);
  const transform = new Float32Array(D * P);
  for (let p = 0; p < P; p++) {
    const scale = Math.max(values[p], varianceFloor * values[0]) ** -0.25;
    for (let d = 0; d < D; d++) transform[d * P + p] = vectors[p * D + d] * scale;
  }
  return { dimensions: P, mean: Float32Array.from(mean), transform };
}

function meanEmbedding(tokenEmbedding: Float32Array, D: number, ids: Int32Array): Float64Array {
  const mean = new Float64Array(D);
  for (const id of ids) for (let d = 0; d < D; d++) mean[d] += tokenEmbedding[id * D + d] / ids.length;
  return mean;
}

function covariance(points: readonly Float64Array[], mean: Float64Array): Float64Array {
  const D = mean.length;
  const result = new Float64Array(D * D);
  const centred = new Float64Array(D);
  for (const point of points) {
    for (let d = 0; d < D; d++) centred[d] = point[d] - mean[d];
    for (let i = 0; i < D; i++) for (let j = 0; j < D; j++) result[i * D + j] += centred[i] * centred[j];
  }
  for (let i = 0; i < result.length; i++) result[i] /= points.length;
  return result;
}

/** Folds a prompt space into the int8 table: row v = transformᵀ·(embedding of v − mean), one scale per row. */
export function foldTable(space: PromptSpace, tokenEmbedding: Float32Array): EdgeTable {
  const P = space.dimensions;
  const D = space.mean.length;
  const V = tokenEmbedding.length / D;
  const rows = new Int8Array(V * P);
  const rowScales = new Float32Array(V);
  const row = new Float64Array(P);
  for (let v = 0; v < V; v++) {
    row.fill(0);
    for (let d = 0; d < D; d++) {
      const centred = tokenEmbedding[v * D + d] - space.mean[d];
      for (let p = 0; p < P; p++) row[p] += centred * space.transform[d * P + p];
    }
    let largest = 0;
    for (let p = 0; p < P; p++) largest = Math.max(largest, Math.abs(row[p]));
    rowScales[v] = largest / 127;
    if (largest > 0) for (let p = 0; p < P; p++) rows[v * P + p] = Math.round((row[p] / largest) * 127);
  }
  return { vocabularySize: V, dimensions: P, rows, rowScales };
}
