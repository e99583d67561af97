/**
 * How texts fall on centroids, in coarse counts: by how much of a prompt was seen, by centroid, by similarity. Training
 * records what it saw, backends count what comes; the two are compared to tell whether traffic has moved away. Counts
 * alone, never text or ids.
 */

/** A short prompt says less of where it belongs, so like is compared with like. `typical` stands for its class. */
export const promptClasses = [
  { from: 1, typical: 5 },
  { from: 8, typical: 11 },
  { from: 16, typical: 23 },
  { from: 32, typical: 45 },
  { from: 64, typical: 64 },
] as const;

/** Similarities below .1, then in tenths up to 1. */
export const similarityBins = 10;

/** Of one class of prompts: how many fell on each centroid [K], and how many were how similar to theirs. */
export interface AssignmentCounts {
  centroids: number[];
  similarities: number[]; // [similarityBins]
}

/** Index of a prompt's class in `promptClasses`. */
export function promptClassOf(promptTokens: number): number {
  return promptClasses.findLastIndex(({ from }) => promptTokens >= from);
}

/** Index of a cosine's bin. */
export function similarityBinOf(similarity: number): number {
  return Math.max(0, Math.min(similarityBins - 1, Math.floor(similarity * similarityBins)));
}

/** Nothing counted, for each class. */
export function emptyProfile(centroids: number): AssignmentCounts[] {
  return promptClasses.map(() => ({
    centroids: new Array<number>(centroids).fill(0),
    similarities: new Array<number>(similarityBins).fill(0),
  }));
}
