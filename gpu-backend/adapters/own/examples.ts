/**
 * What an instant adapter is fitted to: the examples as the head sees them. Pure data and sums over it.
 * Shapes: n examples, N positions of all of them, M tokens of the support.
 */

/** Every position of every example that predicts a token, under the head that the fit starts from. */
export interface Observed {
  /** Which example a position is of, [N], rising from 0. */
  exampleOf: Int32Array;
  /** What follows each position: an index into `support`, [N]. */
  targets: Int32Array;
  /** Token ids, rising: all that occur as targets, and those that the head expects often. Other tokens never get a bias. */
  support: Int32Array; // [M]
  /** Probability of each token of the support at each position, [N, M]; the rest of the mass is elsewhere. */
  probabilities: Float32Array;
}

/** How often each token of the support occurred, and how often the head expected it, over some positions. */
export interface TokenCounts {
  seen: Float64Array; // [M]
  expected: Float64Array; // [M]
}

/** Counts of each example, [n]. */
export function countsOf(observed: Observed): TokenCounts[] {
  const { exampleOf, targets, support, probabilities } = observed;
  const M = support.length;
  const counts: TokenCounts[] = [];
  targets.forEach((target, n) => {
    counts[exampleOf[n]] ??= { seen: new Float64Array(M), expected: new Float64Array(M) };
    const { seen, expected } = counts[exampleOf[n]];
    seen[target]++;
    for (let m = 0, at = n * M; m < M; m++) expected[m] += probabilities[at + m];
  });
  return counts;
}

export function sumOf(counts: readonly TokenCounts[]): TokenCounts {
  const M = counts[0].seen.length;
  const total = { seen: new Float64Array(M), expected: new Float64Array(M) };
  for (const { seen, expected } of counts) {
    for (let m = 0; m < M; m++) {
      total.seen[m] += seen[m];
      total.expected[m] += expected[m];
    }
  }
  return total;
}

/** The positions of the examples that `chosen` picks. */
export function positionsOf({ exampleOf }: Observed, chosen: (example: number) => boolean): Int32Array {
  return Int32Array.from(exampleOf.keys().filter((n) => chosen(exampleOf[n])));
}

/**
 * With fewer examples than this, each is a fold of its own. Five leaves three of five examples to make parts of while one
 * fold measures and another chooses; four would leave as few as two.
 */
const maximumFolds = 5;

/** Number of folds; example i is in fold i mod this. */
export function foldsOf(examples: number): number {
  return Math.min(examples, maximumFolds);
}
