/** Clusters whole documents, then fits the edge's table so that the first 64 tokens of a document find its cluster. */
import {
  type CentroidVectors,
  type EdgeTable,
  promptEmbedding,
  rankCentroids,
} from "../../../shared/math/assignment.ts";
import { documentKey, prefixOf, prefixTokens, type Window } from "../corpus/windows.ts";
import { Random, streams } from "../random.ts";
import { kMeans, unitVector } from "./k-means.ts";

const epochs = 5;
const learningRate = 1;
/** Similarities are multiplied by this factor before the softmax. */
const sharpness = 10;

/** `rows` [V, P] come from `fitPromptRows`. `memberOf` has each window's cluster. Throws an Error for fewer windows than clusters. */
export function placeText(
  rows: Float32Array,
  windows: readonly Window[],
  options: { dimensions: number; clusters: number; seed: number },
) {
  const { dimensions: P, clusters: K, seed } = options;
  const points = documentPoints(quantised(rows, P), windows);
  const { centroids, memberOf } = kMeans(points, P, { clusters: K, seed });
  const fitted = rows.slice();
  const vectors = { count: K, dimensions: P, vectors: centroids };
  fitRows(fitted, windows, vectors, memberOf, seed);
  return { table: quantised(fitted, P), centroids: vectors, memberOf };
}

/** Rounds rows [V, P] to int8, with a scale per row. */
export function quantised(rows: Float32Array, dimensions: number): EdgeTable {
  const P = dimensions;
  const V = rows.length / P;
  const table = { vocabularySize: V, dimensions: P, rows: new Int8Array(V * P), rowScales: new Float32Array(V) };
  for (let v = 0; v < V; v++) {
    let largest = 0;
    for (let p = 0; p < P; p++) largest = Math.max(largest, Math.abs(rows[v * P + p]));
    table.rowScales[v] = largest / 127;
    if (largest === 0) continue;
    for (let p = 0; p < P; p++) table.rows[v * P + p] = Math.round((rows[v * P + p] / largest) * 127);
  }
  return table;
}

/** Embeds as the edge does. Returns [windows, P]. */
export function embedWindows(windows: readonly Window[], table: EdgeTable): Float32Array {
  const P = table.dimensions;
  const embeddings = new Float32Array(windows.length * P);
  for (const [i, window] of windows.entries()) embeddings.set(promptEmbedding(prefixOf(window), table), i * P);
  return embeddings;
}

/** Index of the nearest centroid of each embedding [n, P]. */
export function assignAll(embeddings: Float32Array, centroids: CentroidVectors): Int32Array {
  const P = centroids.dimensions;
  return Int32Array.from(
    { length: embeddings.length / P },
    (_, i) => rankCentroids(embeddings.subarray(i * P, (i + 1) * P), centroids)[0].index,
  );
}

/** Direction of each window's document, [n, P]: the sum of the document's embeddings, scaled to length 1. */
function documentPoints(table: EdgeTable, windows: readonly Window[]): Float32Array {
  const P = table.dimensions;
  const sums = new Map<string, Float32Array>();
  for (const window of windows) {
    const key = documentKey(window);
    const sum = sums.get(key) ?? new Float32Array(P);
    const embedding = promptEmbedding(window.tokenIds, table);
    sums.set(
      key,
      sum.map((x, p) => x + embedding[p]),
    );
  }
  const points = new Float32Array(windows.length * P);
  for (const [i, window] of windows.entries()) {
    points.set(unitVector(sums.get(documentKey(window))!), i * P);
  }
  return points;
}

/** Fits `rows` in place by softmax regression with Adagrad: the direction of the sum of 64 consecutive tokens' rows gives the cluster. */
function fitRows(
  rows: Float32Array,
  windows: readonly Window[],
  centroids: CentroidVectors,
  memberOf: Int32Array,
  seed: number,
): void {
  const { count: K, dimensions: P, vectors } = centroids;
  const random = new Random(seed, streams.placement);
  const squares = new Float32Array(rows.length).fill(1e-8);
  const sum = new Float64Array(P);
  const gradient = new Float64Array(P);
  const probabilities = new Float64Array(K);
  for (let epoch = 0; epoch < epochs; epoch++) {
    for (const i of random.shuffled([...windows.keys()])) {
      const ids = stretchOf(windows[i].tokenIds, random);
      sum.fill(0);
      for (const v of ids) for (let p = 0; p < P; p++) sum[p] += rows[v * P + p];
      const length = Math.hypot(...sum);
      if (length === 0) continue;
      for (let p = 0; p < P; p++) sum[p] /= length;
      let total = 0;
      for (let k = 0; k < K; k++) {
        let similarity = 0;
        for (let p = 0; p < P; p++) similarity += sum[p] * vectors[k * P + p];
        // Similarities are at most 1, so this cannot overflow.
        probabilities[k] = Math.exp(sharpness * (similarity - 1));
        total += probabilities[k];
      }
      // The gradient by the direction becomes a gradient by the sum of rows. The part along the direction would only change the sum's
      // length.
      gradient.fill(0);
      let along = 0;
      for (let k = 0; k < K; k++) {
        const error = sharpness * (probabilities[k] / total - (k === memberOf[i] ? 1 : 0));
        for (let p = 0; p < P; p++) gradient[p] += error * vectors[k * P + p];
      }
      for (let p = 0; p < P; p++) along += gradient[p] * sum[p];
      for (let p = 0; p < P; p++) gradient[p] = (gradient[p] - along * sum[p]) / length;
      for (const v of ids) {
        for (let p = 0; p < P; p++) {
          const at = v * P + p;
          squares[at] += gradient[p] * gradient[p];
          rows[at] -= (learningRate * gradient[p]) / Math.sqrt(squares[at]);
        }
      }
    }
  }
}

function stretchOf(tokenIds: Int32Array, random: Random): Int32Array {
  const start = random.integer(Math.max(1, tokenIds.length - prefixTokens + 1));
  return tokenIds.subarray(start, start + prefixTokens);
}
