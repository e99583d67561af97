/** A centroid's label of characteristic words, and its position on a map. */
import { Matrix } from "ml-matrix";
import type { Window } from "../corpus/windows.ts";
import { symmetricEigen } from "./prompt-space.ts";

/** Weight of the prior, in tokens. Without a prior, rare pieces become labels by chance. */
const priorTokens = 1000;
const labelWords = 5;
const wordStart = /^ \p{L}{3,}$/u;

/** Pieces with the greatest log-odds against other clusters, in standard errors (Monroe, Colaresi & Quinn 2008). `counts`: K × [V]. */
export function labelsOf(counts: readonly Float64Array[], textOf: (tokenId: number) => string): string[][] {
  const V = counts[0].length;
  const corpus = new Float64Array(V).map((_, v) => counts.reduce((sum, cluster) => sum + cluster[v], 0));
  const corpusTokens = sum(corpus);
  return counts.map((cluster) => {
    const clusterTokens = sum(cluster);
    const scores = new Map<number, number>();
    for (let v = 0; v < V; v++) {
      if (cluster[v] < 3) continue;
      const prior = (priorTokens * corpus[v]) / corpusTokens;
      const inside = cluster[v] + prior;
      const outside = corpus[v] - cluster[v] + prior;
      const insideOdds = Math.log(inside / (clusterTokens + priorTokens - inside));
      const outsideOdds = Math.log(outside / (corpusTokens - clusterTokens + priorTokens - outside));
      scores.set(v, (insideOdds - outsideOdds) / Math.sqrt(1 / inside + 1 / outside));
    }
    const label: string[] = [];
    for (const [v] of [...scores].sort(([v, a], [w, b]) => b - a || v - w)) {
      const text = textOf(v);
      const isNew = label.every((known) => known.toLowerCase() !== text.trim().toLowerCase());
      if (isNew && wordStart.test(text) && label.push(text.trim()) === labelWords) break;
    }
    return label;
  });
}

/** Returns counts of each token id, K × [V]. */
export function countsByCluster(windows: readonly Window[], memberOf: Int32Array, K: number, V: number) {
  const counts = Array.from({ length: K }, () => new Float64Array(V));
  for (const [i, { tokenIds }] of windows.entries()) for (const id of tokenIds) counts[memberOf[i]][id]++;
  return counts;
}

/** Coordinates of centroids along their first two principal components, [K]. */
export function mapPositions(centroids: Float32Array, dimensions: number): [number, number][] {
  const points = Matrix.from1DArray(centroids.length / dimensions, dimensions, centroids);
  const centred = points.subRowVector(points.mean("column"));
  const { vectors } = symmetricEigen(centred.transpose().mmul(centred));
  const along = centred.mmul(vectors.transpose()); // [K, P]
  return along.to2DArray().map(([x, y = 0]) => [x, y]);
}

function sum(values: Float64Array): number {
  return values.reduce((total, value) => total + value, 0);
}
