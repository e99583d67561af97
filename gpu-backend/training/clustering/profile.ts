/** What traffic like the training text would look like to a backend: held-out windows, assigned by prefixes of every class. */
import {
  type CentroidVectors,
  type EdgeTable,
  promptEmbedding,
  rankCentroids,
} from "../../../shared/math/assignment.ts";
import {
  type AssignmentCounts,
  emptyProfile,
  promptClasses,
  similarityBinOf,
} from "../../../shared/math/assignment-profile.ts";
import { prefixOf, type Window } from "../corpus/windows.ts";

/** Counts for each of `promptClasses`. Held-out text, because what the table was fitted to is closer to its centroids. */
export function profileOf(
  windows: readonly Window[],
  table: EdgeTable,
  centroids: CentroidVectors,
): AssignmentCounts[] {
  const profile = emptyProfile(centroids.count);
  for (const window of windows) {
    for (const [c, { typical }] of promptClasses.entries()) {
      const { index, similarity } = rankCentroids(promptEmbedding(prefixOf(window, typical), table), centroids)[0];
      profile[c].centroids[index]++;
      profile[c].similarities[similarityBinOf(similarity)]++;
    }
  }
  return profile;
}
