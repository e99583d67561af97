/**
 * Whether traffic has moved away from what training saw: population-stability indexes of two distributions, over centroids
 * and over similarities. Pure.
 *
 *   PSI = Σ (live − expected) · ln(live / expected)
 *
 * It is 0 where nothing moved; by convention .1 is a change to watch and .25 one to act on. Samples of n and m make it
 * (1/n + 1/m)·χ² with one degree of freedom less than bins by chance alone (Yurdakul 2018), so it must also exceed what
 * chance gives in 95 of 100 cases.
 */
import { type AssignmentCounts, similarityBins } from "../../shared/math/assignment-profile.ts";

export const watchedIndex = 0.1;
export const majorIndex = 0.25;
/** Added to every bin, as nobody can take the logarithm of nothing. */
const smoothing = 0.5;

export interface Shift {
  psi: number;
  /** What chance alone stays below in 95 of 100 cases. */
  chance: number;
  /** Shares of each bin, [bins]. */
  live: number[];
  expected: number[];
}

export interface DriftResult {
  verdict: "fine" | "retrain" | "too few requests";
  prompts: number;
  /** Below it nothing is said. */
  fewestPrompts: number;
  /** null where there are too few prompts. */
  centroids: Shift | null;
  similarities: Shift | null;
  /** Means of the live and the expected cosines, as far as bins tell. */
  similarity: { live: number; expected: number } | null;
}

/**
 * Compares live counts with a reference, class by class of prompt lengths: how long prompts are is no drift.
 * Throws an Error where the two are of different centroids.
 */
export function driftOf(
  live: readonly AssignmentCounts[],
  reference: readonly AssignmentCounts[],
  fewestPrompts: number,
): DriftResult {
  const K = reference[0].centroids.length;
  if (live.some(({ centroids }) => centroids.length !== K)) {
    throw new Error(`the counts are of ${live[0].centroids.length} centroids, the reference is of ${K}`);
  }
  const prompts = live.reduce((total, { centroids }) => total + sum(centroids), 0);
  const nothing = { prompts, fewestPrompts, centroids: null, similarities: null, similarity: null };
  if (prompts < fewestPrompts) return { ...nothing, verdict: "too few requests" };
  const centroids = shiftOf(live, reference, "centroids");
  const similarities = shiftOf(live, reference, "similarities");
  const similarity = { live: meanOf(similarities.live), expected: meanOf(similarities.expected) };
  // Text that is closer to its centroids than training's is no reason to train again.
  const isFarther = isMajor(similarities) && similarity.live < similarity.expected;
  const verdict = isMajor(centroids) || isFarther ? "retrain" : "fine";
  return { verdict, prompts, fewestPrompts, centroids, similarities, similarity };
}

export function isMajor({ psi, chance }: Shift): boolean {
  return psi >= majorIndex && psi > chance;
}

/** Sums of counts, bin by bin. */
export function added(one: readonly AssignmentCounts[], other: readonly AssignmentCounts[]): AssignmentCounts[] {
  return combined(one, other, (a, b) => a + b);
}

/** What came since `before`, a state of the same counters. */
export function since(now: readonly AssignmentCounts[], before: readonly AssignmentCounts[]): AssignmentCounts[] {
  return combined(now, before, (a, b) => Math.max(0, a - b));
}

function combined(
  one: readonly AssignmentCounts[],
  other: readonly AssignmentCounts[],
  combine: (a: number, b: number) => number,
): AssignmentCounts[] {
  return one.map(({ centroids, similarities }, c) => ({
    centroids: centroids.map((count, k) => combine(count, other[c].centroids[k])),
    similarities: similarities.map((count, bin) => combine(count, other[c].similarities[bin])),
  }));
}

function shiftOf(
  live: readonly AssignmentCounts[],
  reference: readonly AssignmentCounts[],
  of: keyof AssignmentCounts,
): Shift {
  const bins = reference[0][of].length;
  const found = new Array<number>(bins).fill(smoothing);
  const foreseen = new Array<number>(bins).fill(0);
  let fewestSeen = Number.POSITIVE_INFINITY;
  for (const [c, counts] of live.entries()) {
    const ofClass = sum(counts[of]);
    if (ofClass === 0) continue;
    const seen = sum(reference[c][of]);
    fewestSeen = Math.min(fewestSeen, seen);
    for (let bin = 0; bin < bins; bin++) {
      found[bin] += counts[of][bin];
      foreseen[bin] += (ofClass * (reference[c][of][bin] + smoothing)) / (seen + smoothing * bins);
    }
  }
  const liveShares = shares(found);
  const expected = shares(foreseen);
  const psi = liveShares.reduce((total, p, bin) => total + (p - expected[bin]) * Math.log(p / expected[bin]), 0);
  const n = sum(found) - smoothing * bins;
  return { psi, chance: (1 / n + 1 / fewestSeen) * chiSquared95(bins - 1), live: liveShares, expected };
}

/** The 95% quantile of χ², after Wilson and Hilferty (1931): within a hundredth of it from two degrees of freedom on. */
export function chiSquared95(degrees: number): number {
  const spread = 2 / (9 * degrees);
  return degrees * (1 - spread + 1.6449 * Math.sqrt(spread)) ** 3;
}

/** Of bins of a tenth each, by their middles. */
function meanOf(similarityShares: readonly number[]): number {
  return similarityShares.reduce((total, share, bin) => total + (share * (bin + 0.5)) / similarityBins, 0);
}

function shares(counts: readonly number[]): number[] {
  const total = sum(counts);
  return counts.map((count) => count / total);
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}
