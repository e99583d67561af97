/** What traffic like the training text would look like to a backend: its windows, assigned by prefixes of every class. */
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
import { type Split, splits } from "../corpus/splits.ts";
import { prefixOf, type Window } from "../corpus/windows.ts";

/**
 * Counts for each of `promptClasses`. Centroids by all windows: a few held-out documents alone may fall on other centroids
 * than the rest. Similarities by held-out ones, because what the table was fitted to is closer to its centroids.
 */
export function profileOf(
  sets: Record<Split, { windows: readonly Window[] }>,
  table: EdgeTable,
  centroids: CentroidVectors,
): AssignmentCounts[] {
  const profile = emptyProfile(centroids.count);
  for (const split of splits) {
    for (const window of sets[split].windows) {
      for (const [c, { typical }] of promptClasses.entries()) {
        const { index, similarity } = rankCentroids(promptEmbedding(prefixOf(window, typical), table), centroids)[0];
        profile[c].centroids[index]++;
        if (split !== "train") profile[c].similarities[similarityBinOf(similarity)]++;
      }
    }
  }
  return profile;
}
