/**
 * Fits the projection that the prompt embedding starts from: Fisher's discriminant with a class per document, that is the P
 * directions with the largest variance between documents relative to the variance within them. It is linear in the token
 * embeddings, so the edge has it as one table [V, P], whose rows placement.ts then fits.
 */
import { symmetricEigen } from "./eigen.ts";

export interface PromptSpace {
  dimensions: number; // P
  mean: Float32Array; // [D]
  transform: Float32Array; // [D, P]
}

/** The start of a text, and the document that it comes from. */
export interface Prefix {
  tokenIds: Int32Array;
  /** Equal for prefixes of one document. */
  document: string;
}

/** Share of the average variance that every direction within documents is given: few prefixes measure few directions. */
const shrinkage = 0.02;
/** Of the largest variance, or of the whole: directions with less than this share are noise. */
const varianceFloor = 1e-6;

/**
 * Deterministic. Throws an Error when `dimensions` exceed the model's width.
 * @param tokenEmbedding [V, D]
 * @param prefixes of the training text; where no document has two, principal directions are used
 */
export function fitPromptSpace(
  tokenEmbedding: Float32Array,
  hiddenSize: number,
  prefixes: readonly Prefix[],
  dimensions: number,
): PromptSpace {
  const D = hiddenSize;
  const P = dimensions;
  if (P > D) throw new Error(`a prompt embedding of ${P} dimensions does not fit a model of width ${D}`);
  const points = prefixes.map(({ tokenIds }) => meanEmbedding(tokenEmbedding, D, tokenIds));
  const mean = meanOf(points, D);
  const total = covariance(points, () => mean, D, points.length);
  const within = withinDocuments(prefixes, points, D);
  const transform = within ? discriminantOf(within, total, D, P) : halfWhitenedOf(total, D, P);
  return { dimensions: P, mean: Float32Array.from(mean), transform };
}

/** Fisher's directions [D, P], the most telling first, each as strong as the share of its variance between documents. */
function discriminantOf(within: Float64Array, total: Float64Array, D: number, P: number): Float32Array {
  const whitening = whiteningOf(within, D);
  const { values, vectors } = symmetricEigen(congruence(whitening, total, D), D);
  const transform = new Float32Array(D * P);
  const direction = new Float64Array(D);
  for (let p = 0; p < P; p++) {
    // Whitened, a document varies by 1 in every direction, and all text by λ: 1 − 1/λ of that is between documents.
    const strength = Math.sqrt(Math.max(varianceFloor, 1 - 1 / Math.max(values[p], 1)));
    direction.fill(0);
    for (let i = 0; i < D; i++) {
      for (let d = 0; d < D; d++) direction[d] += vectors[p * D + i] * whitening[i * D + d];
    }
    for (let d = 0; d < D; d++) transform[d * P + p] = strength * direction[d];
  }
  return transform;
}

/** Principal directions [D, P], half-whitened (λ^-¼, between PCA and whitening). For text whose documents are not known. */
function halfWhitenedOf(total: Float64Array, D: number, P: number): Float32Array {
  const { values, vectors } = symmetricEigen(total, D);
  const transform = new Float32Array(D * P);
  for (let p = 0; p < P; p++) {
    const scale = Math.max(values[p], varianceFloor * values[0]) ** -0.25;
    for (let d = 0; d < D; d++) transform[d * P + p] = vectors[p * D + d] * scale;
  }
  return transform;
}

/** Folds a prompt space into rows [V, P]: row v = transformᵀ·(embedding of v − mean). */
export function foldRows(space: PromptSpace, tokenEmbedding: Float32Array): Float32Array {
  const P = space.dimensions;
  const D = space.mean.length;
  const V = tokenEmbedding.length / D;
  const rows = new Float32Array(V * P);
  const row = new Float64Array(P);
  for (let v = 0; v < V; v++) {
    row.fill(0);
    for (let d = 0; d < D; d++) {
      const centred = tokenEmbedding[v * D + d] - space.mean[d];
      for (let p = 0; p < P; p++) row[p] += centred * space.transform[d * P + p];
    }
    rows.set(row, v * P);
  }
  return rows;
}

function meanEmbedding(tokenEmbedding: Float32Array, D: number, ids: Int32Array): Float64Array {
  const mean = new Float64Array(D);
  for (const id of ids) for (let d = 0; d < D; d++) mean[d] += tokenEmbedding[id * D + d] / ids.length;
  return mean;
}

export function meanOf(points: readonly Float64Array[], D: number): Float64Array {
  const mean = new Float64Array(D);
  for (const point of points) for (let d = 0; d < D; d++) mean[d] += point[d] / points.length;
  return mean;
}

/** Σ (x − centre)(x − centre)ᵀ / divisor, [D, D] */
export function covariance(
  points: readonly Float64Array[],
  centreOf: (index: number) => Float64Array,
  D: number,
  divisor: number,
): Float64Array {
  const result = new Float64Array(D * D);
  const centred = new Float64Array(D);
  for (const [index, point] of points.entries()) {
    const centre = centreOf(index);
    for (let d = 0; d < D; d++) centred[d] = point[d] - centre[d];
    for (let i = 0; i < D; i++) for (let j = i; j < D; j++) result[i * D + j] += centred[i] * centred[j];
  }
  for (let i = 0; i < D; i++) {
    for (let j = i; j < D; j++) {
      result[i * D + j] /= divisor;
      result[j * D + i] = result[i * D + j];
    }
  }
  return result;
}

/** Covariance within documents; null where no document has two prefixes. */
function withinDocuments(prefixes: readonly Prefix[], points: readonly Float64Array[], D: number): Float64Array | null {
  const members = Map.groupBy(points.keys(), (index) => prefixes[index].document);
  const repeated = [...members.values()].filter(({ length }) => length > 1);
  if (repeated.length === 0) return null;
  const means = new Map<number, Float64Array>();
  for (const indexes of repeated) {
    const mean = meanOf(
      indexes.map((index) => points[index]),
      D,
    );
    for (const index of indexes) means.set(index, mean);
  }
  const indexes = [...means.keys()];
  return covariance(
    indexes.map((index) => points[index]),
    (at) => means.get(indexes[at])!,
    D,
    indexes.length - repeated.length,
  );
}

/** W with W·C·Wᵀ ≈ 1: rows are C's eigenvectors over the roots of their shrunk eigenvalues, [D, D]. */
function whiteningOf(matrix: Float64Array, D: number): Float64Array {
  const { values, vectors } = symmetricEigen(matrix, D);
  const average = values.reduce((sum, value) => sum + value, 0) / D;
  return vectors.map(
    (x, i) => x / Math.sqrt((1 - shrinkage) * Math.max(0, values[Math.floor(i / D)]) + shrinkage * average),
  );
}

/** W·C·Wᵀ, [D, D] */
function congruence(w: Float64Array, c: Float64Array, D: number): Float64Array {
  return product(product(w, c, D), transposed(w, D), D);
}

function product(a: Float64Array, b: Float64Array, D: number): Float64Array {
  const result = new Float64Array(D * D);
  for (let i = 0; i < D; i++) {
    for (let k = 0; k < D; k++) {
      const factor = a[i * D + k];
      for (let j = 0; j < D; j++) result[i * D + j] += factor * b[k * D + j];
    }
  }
  return result;
}

function transposed(m: Float64Array, D: number): Float64Array {
  return m.map((_, i) => m[(i % D) * D + Math.floor(i / D)]);
}
