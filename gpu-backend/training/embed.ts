/** Prompt embeddings and nearest centroids of many windows, by the very functions that the edge runs. */
import { type CentroidVectors, type EdgeTable, promptEmbedding, rankCentroids } from "../../shared/math/assignment.ts";
import { prefixOf, prefixTokens, type Window } from "./corpus/windows.ts";

/** From the first `tokens` of each window, [windows, P]. */
export function embedWindows(windows: readonly Window[], table: EdgeTable, tokens = prefixTokens): Float32Array {
  const P = table.dimensions;
  const embeddings = new Float32Array(windows.length * P);
  for (const [i, window] of windows.entries()) embeddings.set(promptEmbedding(prefixOf(window, tokens), table), i * P);
  return embeddings;
}

/** Nearest centroid of each embedding [n, P]. */
export function assignAll(embeddings: Float32Array, centroids: CentroidVectors): Int32Array {
  const P = centroids.dimensions;
  return Int32Array.from(
    { length: embeddings.length / P },
    (_, i) => rankCentroids(embeddings.subarray(i * P, (i + 1) * P), centroids)[0].index,
  );
}
