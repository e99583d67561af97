/**
 * The prompt embedding starts from Fisher's discriminant: the P directions with the largest variance between documents relative to the
 * variance within documents. The projection is linear, so the edge needs only one table [V, P].
 */
import { EigenvalueDecomposition, Matrix } from "ml-matrix";

export interface Prefix {
  tokenIds: Int32Array;
  document: string;
}

/** Share of the average variance that every direction gets, because few prefixes do not measure every direction. */
const shrinkage = 0.02;
/** Smaller variances are noise. Relative to the largest variance or to all variance. */
const varianceFloor = 1e-6;

/** Projects token embeddings to [V, P]. Uses principal components if no document has two prefixes. */
export function fitPromptRows(
  tokenEmbedding: Float32Array,
  hiddenSize: number,
  prefixes: readonly Prefix[],
  dimensions: number,
): Float32Array {
  const D = hiddenSize;
  const P = dimensions;
  if (P > D) throw new Error(`a prompt embedding of ${P} dimensions does not fit a model of width ${D}`);
  const points = new Matrix(prefixes.map(({ tokenIds }) => meanEmbedding(tokenEmbedding, D, tokenIds))); // [prefixes, D]
  const mean = points.mean("column");
  const total = covarianceOf(points.clone().subRowVector(mean), points.rows); // [D, D]
  const within = withinDocuments(prefixes, points);
  const directions = within ? discriminantOf(within, total, P) : halfWhitenedOf(total, P); // [P, D]
  const [projections, offset] = [Float64Array.from(directions.to1DArray()), directions.mmul(Matrix.columnVector(mean))];
  return Float32Array.from({ length: (tokenEmbedding.length / D) * P }, (_, i) => {
    const [row, p] = [Math.floor(i / P) * D, i % P];
    let sum = -offset.get(p, 0);
    for (let d = 0; d < D; d++) sum += tokenEmbedding[row + d] * projections[p * D + d];
    return sum;
  });
}

/** Fisher's directions [P, D], best first, weighted by the square root of the share of variance that is between documents. */
function discriminantOf(within: Matrix, total: Matrix, P: number): Matrix {
  // Whitens the variance within documents: divides each eigenvector by the root of the (shrunk) variance along the eigenvector.
  const { values: spread, vectors: whitening } = symmetricEigen(within);
  const average = spread.reduce((sum, value) => sum + value, 0) / spread.length;
  for (const [i, value] of spread.entries()) {
    whitening.mulRow(i, 1 / Math.sqrt((1 - shrinkage) * Math.max(0, value) + shrinkage * average));
  }
  const { values, vectors } = symmetricEigen(whitening.mmul(total).mmul(whitening.transpose()));
  const directions = firstRows(vectors, P).mmul(whitening);
  for (let p = 0; p < P; p++) {
    // After whitening, the variance along every direction is 1 within documents and λ in all. So the share 1 − 1/λ is between documents.
    directions.mulRow(p, Math.sqrt(Math.max(varianceFloor, 1 - 1 / Math.max(values[p], 1))));
  }
  return directions;
}

/** Principal components [P, D], each multiplied by λ^-¼, where λ is its variance: halfway between PCA and whitening. */
function halfWhitenedOf(total: Matrix, P: number): Matrix {
  const { values, vectors } = symmetricEigen(total);
  const directions = firstRows(vectors, P);
  for (let p = 0; p < P; p++) directions.mulRow(p, Math.max(values[p], varianceFloor * values[0]) ** -0.25);
  return directions;
}

function firstRows(matrix: Matrix, count: number): Matrix {
  return matrix.subMatrix(0, count - 1, 0, matrix.columns - 1);
}

function meanEmbedding(tokenEmbedding: Float32Array, D: number, ids: Int32Array): Float64Array {
  const mean = new Float64Array(D);
  for (const id of ids) for (let d = 0; d < D; d++) mean[d] += tokenEmbedding[id * D + d] / ids.length;
  return mean;
}

/** Σ xxᵀ / divisor over rows x, [D, D] */
function covarianceOf(centred: Matrix, divisor: number): Matrix {
  return centred.transpose().mmul(centred).div(divisor);
}

/** Returns [D, D], or null if no document has two prefixes. */
function withinDocuments(prefixes: readonly Prefix[], points: Matrix): Matrix | null {
  const members = Map.groupBy(prefixes.keys(), (index) => prefixes[index].document);
  const repeated = [...members.values()].filter(({ length }) => length > 1);
  if (repeated.length === 0) return null;
  const centred = repeated.flatMap((indexes) => {
    const own = new Matrix(indexes.map((index) => points.getRow(index)));
    return own.subRowVector(own.mean("column")).to2DArray();
  });
  return covarianceOf(new Matrix(centred), centred.length - repeated.length);
}

/** Eigenvalues are descending. Unit eigenvectors are rows, each with a positive largest component. */
export function symmetricEigen(matrix: Matrix): { values: number[]; vectors: Matrix } {
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(matrix, { assumeSymmetric: true });
  const vectors = eigenvectorMatrix.transpose().flipColumns();
  for (let i = 0; i < vectors.rows; i++) {
    const row = vectors.getRow(i);
    const largest = row.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most), 0);
    if (largest < 0) vectors.mulRow(i, -1);
  }
  return { values: realEigenvalues.toReversed(), vectors };
}
