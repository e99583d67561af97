/**
 * Fits the projection that the prompt embedding starts from: Fisher's discriminant with a class per document, that is the P
 * directions with the largest variance between documents relative to the variance within them. It is linear in the token
 * embeddings, so the edge has it as one table [V, P], whose rows placement.ts then fits.
 */
import { EigenvalueDecomposition, Matrix } from "ml-matrix";

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
  const points = new Matrix(prefixes.map(({ tokenIds }) => meanEmbedding(tokenEmbedding, D, tokenIds))); // [prefixes, D]
  const mean = points.mean("column");
  const total = covarianceOf(points.clone().subRowVector(mean), points.rows);
  const within = withinDocuments(prefixes, points);
  const directions = within ? discriminantOf(within, total, P) : halfWhitenedOf(total, P); // [P, D]
  const transform = Float32Array.from(directions.transpose().to1DArray());
  return { dimensions: P, mean: Float32Array.from(mean), transform };
}

/** Fisher's directions [P, D], the most telling first, each as strong as the share of its variance between documents. */
function discriminantOf(within: Matrix, total: Matrix, P: number): Matrix {
  // Rows are the eigenvectors of the covariance within documents over the roots of their shrunk eigenvalues.
  const { values: spread, vectors: whitening } = symmetricEigen(within);
  const average = spread.reduce((sum, value) => sum + value, 0) / spread.length;
  for (const [i, value] of spread.entries()) {
    whitening.mulRow(i, 1 / Math.sqrt((1 - shrinkage) * Math.max(0, value) + shrinkage * average));
  }
  const { values, vectors } = symmetricEigen(whitening.mmul(total).mmul(whitening.transpose()));
  const directions = firstRows(vectors, P).mmul(whitening);
  for (let p = 0; p < P; p++) {
    // Whitened, a document varies by 1 in every direction, and all text by λ: 1 − 1/λ of that is between documents.
    directions.mulRow(p, Math.sqrt(Math.max(varianceFloor, 1 - 1 / Math.max(values[p], 1))));
  }
  return directions;
}

/** Principal directions [P, D], half-whitened (λ^-¼, between PCA and whitening). For text whose documents are not known. */
function halfWhitenedOf(total: Matrix, P: number): Matrix {
  const { values, vectors } = symmetricEigen(total);
  const directions = firstRows(vectors, P);
  for (let p = 0; p < P; p++) directions.mulRow(p, Math.max(values[p], varianceFloor * values[0]) ** -0.25);
  return directions;
}

function firstRows(matrix: Matrix, count: number): Matrix {
  return matrix.subMatrix(0, count - 1, 0, matrix.columns - 1);
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

/** Σ xxᵀ / divisor over rows x, [D, D] */
function covarianceOf(centred: Matrix, divisor: number): Matrix {
  return centred.transpose().mmul(centred).div(divisor);
}

/** Covariance within documents; null where no document has two prefixes. */
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

/** Of a symmetric matrix: eigenvalues, descending, and as rows their unit eigenvectors, the largest component of each positive. */
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
