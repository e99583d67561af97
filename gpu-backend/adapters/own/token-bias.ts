/**
 * The unigram part: a bias for each token that the examples use more or less often than the head expects there.
 * The head's own expectation in these very contexts is the yardstick, not the tokens' frequency anywhere else: what the
 * model foresees already needs no bias, so text that it knows is left alone. (Against 0.5·log(1 + c/1000p), with p a
 * token's frequency in training, it gained .10 nats instead of .05 on WikiText and .03 instead of .02 on Brown, and it
 * does not overshoot.)
 */
import type { TokenCounts } from "./examples.ts";
import type { ExampleGain } from "./held-out-gain.ts";

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
