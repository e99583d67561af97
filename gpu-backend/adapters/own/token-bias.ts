/**
 * The unigram part: a bias for each token that the examples use more or less often than the head expects at these positions,
 * made of some folds of the examples and scored on another. Text that the model predicts well gets no bias. (Against 0.5·log(1
 * + c/1000p), with p a token's frequency in training, it gained .10 nats instead of .05 on WikiText and .03 instead of .02 on
 * Brown.) Pure.
 * Shapes: N positions of all examples, M tokens of the support.
 */
import type { ExampleGain } from "./held-out-gain.ts";

/** Every position of every example that predicts a token, under the head that the fit starts from. */
export interface Observed {
  /** Which example a position is of, [N], rising from 0. */
  exampleOf: Int32Array;
  /** The token after each position, as an index into `support`, [N]. */
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

/** Added to both counts: one occurrence says little. */
const priorCount = 1;
/** Shares of the bias that may be applied; examples that it was not counted on decide which. */
export const biasStrengths: readonly number[] = [0.25, 0.5, 0.75, 1];

/** A token that does not occur gets a bias only where the head expects it at least this often. */
export const expectedCount = 0.5;

/**
 * log((seen + 1) / (expected + 1)) of each token of the support, [M]; 0 for a token that neither occurs nor is expected
 * `expectedCount` times in what was counted. So a token that is in the support because of other examples gets no bias.
 */
export function tokenBias({ seen, expected }: TokenCounts): Float64Array {
  return seen.map((count, m) =>
    count > 0 || expected[m] >= expectedCount ? Math.log((count + priorCount) / (expected[m] + priorCount)) : 0,
  );
}

/**
 * What `bias` [M] gains on positions `at` of probabilities [N, M], by example: bias of the token that came (none for a
 * target of −1, which is not in the support) less log(1 + Σ p·(e^bias − 1)), the growth of the normaliser.
 */
export function biasGains(
  observed: { exampleOf: Int32Array; targets: Int32Array; probabilities: Float32Array },
  at: Int32Array,
  bias: Float64Array,
): Map<number, ExampleGain> {
  const { exampleOf, targets, probabilities } = observed;
  const M = bias.length;
  const growth = bias.map((value) => Math.expm1(value));
  const gains = new Map<number, ExampleGain>();
  for (const n of at) {
    let mass = 0;
    for (let m = 0, i = n * M; m < M; m++) mass += probabilities[i + m] * growth[m];
    addGain(gains, exampleOf[n], (targets[n] < 0 ? 0 : bias[targets[n]]) - Math.log1p(mass));
  }
  return gains;
}

/** Counts one more token of an example. */
export function addGain(gains: Map<number, ExampleGain>, example: number, nats: number): void {
  const sum = gains.get(example);
  if (sum) {
    sum.tokens++;
    sum.nats += nats;
  } else gains.set(example, { tokens: 1, nats });
}

/** Gains by example. */
export type Gains = Map<number, ExampleGain>;

export class FoldParts {
  readonly observed: Observed;
  readonly #folds: number;
  /** Of each example. */
  readonly #counts: TokenCounts[];
  readonly #biases = new Map<string, Float64Array>();
  readonly #gains = new Map<string, Gains[]>();

  constructor(observed: Observed) {
    this.observed = observed;
    this.#counts = countsOf(observed);
    this.#folds = foldsOf(this.#counts.length);
  }

  /** At full strength, [M]. */
  bias(without: readonly number[]): Float64Array {
    return remembered(this.#biases, keyOf(without), () =>
      tokenBias(sumOf(this.#counts.filter((_, i) => !without.includes(i % this.#folds)))),
    );
  }

  /** On the examples of fold `on`, for each of `biasStrengths`. */
  biasGains(without: readonly number[], on: number): Gains[] {
    return remembered(this.#gains, `bias ${keyOf(without)} ${on}`, () => {
      const bias = this.bias(without);
      const at = this.#positions((fold) => fold === on);
      return biasStrengths.map((strength) => biasGains(this.observed, at, scaled(bias, strength)));
    });
  }

  #positions(chosen: (fold: number) => boolean): Int32Array {
    return positionsOf(this.observed, (example) => chosen(example % this.#folds));
  }
}

export function scaled(values: Float64Array, factor: number): Float64Array {
  return Float64Array.from(values, (value) => factor * value);
}

function keyOf(folds: readonly number[]): string {
  return folds.toSorted((a, b) => a - b).join();
}

function remembered<T>(known: Map<string, T>, key: string, make: () => T): T {
  if (!known.has(key)) known.set(key, make());
  return known.get(key)!;
}
