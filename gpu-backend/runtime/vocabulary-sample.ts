/**
 * How likely an adapter finds one token of a prompt, without the sum over a large vocabulary that its softmax divides by. The
 * base's probabilities p are known in full, and the adapter's sum by the base's is Σ p(v)·exp(delta(v)). The tokens of the
 * lowest ids are summed all; of the others some stand for all by a ratio estimate (Cochran, Sampling Techniques, chapter 6):
 * their sum times the mass that p has on all the others by what it has on these. Only evidence is estimated: it is itself a
 * sample of a prompt's tokens, with several times this noise. Answers sum over every token.
 * Shapes: V vocabulary, Q gates, W columns.
 */

/** GPT-2's token ids rise as tokens become rarer, because byte pairs are merged in the order of their frequency. */
const commonTokens = 4096;
/** Of the others one in so many is looked at, in so many runs of consecutive ids. */
const rareShare = 16;
const rareRuns = 8;
/** Less mass of the base than this is rounding. */
const leastMass = 1e-5;
/** From a less likely token float32 does not tell the base's masses. */
const leastProbability = 1e-30;

/** Token ids [start, end). */
type Range = [start: number, end: number];

/** The columns that are summed: first the token in question, then the ids of `ranges`, among which it may be once more. */
export interface VocabularySample {
  /** Common tokens, then runs of others. */
  ranges: Range[];
  /** The others by those of them that are looked at. */
  share: number;
  /** W */
  columns: number;
}

/** null for a vocabulary that is small enough to be summed. */
export function sampleOf(vocabularySize: number): VocabularySample | null {
  const others = vocabularySize - commonTokens;
  if (others <= 0) return null;
  const startOf = (run: number) => commonTokens + Math.floor((run * others) / rareRuns);
  const runs = Array.from({ length: rareRuns }, (_, run): Range => {
    const start = startOf(run);
    return [start, start + Math.ceil((startOf(run + 1) - start) / rareShare)];
  }).filter(([start, end]) => end > start);
  const sampled = runs.reduce((sum, [start, end]) => sum + end - start, 0);
  return { ranges: [[0, commonTokens], ...runs], share: others / sampled, columns: 1 + commonTokens + sampled };
}

/** Columns [Q, W] of a matrix [Q, V]; 0 in the first. */
export function sampledColumns(matrix: Float32Array, rows: number, { ranges, columns: W }: VocabularySample) {
  const V = matrix.length / rows;
  const sampled = new Float32Array(rows * W);
  for (let q = 0; q < rows; q++) {
    let at = q * W + 1;
    for (const [start, end] of ranges) {
      sampled.set(matrix.subarray(q * V + start, q * V + end), at);
      at += end - start;
    }
  }
  return sampled;
}

/** Of a row of W columns: the first, the sum of the common tokens, and that of the others that are looked at. */
type Sums = ArrayLike<number>;

/** A matrix [W, 3] that sums columns so. */
export function summing({ columns: W }: VocabularySample): Float32Array {
  const matrix = new Float32Array(W * 3);
  for (let w = 0; w < W; w++) matrix[w * 3 + (w === 0 ? 0 : w <= commonTokens ? 1 : 2)] = 1;
  return matrix;
}

/**
 * Probability of token `id` under an adapter. Beyond a delta of 87 nats, which no float32 softmax would tell either, it may be 0.
 * @param probability the base's
 * @param base sums of what is proportional to the base's probabilities
 * @param adapted sums of what is proportional to the adapter's, the first without the token's delta
 * @param delta what the adapter adds to the token's logit
 */
export function estimatedProbability(
  id: number,
  { ranges, share }: VocabularySample,
  { probability, base, adapted, delta }: { probability: number; base: Sums; adapted: Sums; delta: number },
): number {
  const isCommon = id < commonTokens;
  const isSampled = !isCommon && ranges.some(([start, end]) => id >= start && id < end);
  const own = adapted[0] * Math.exp(delta);
  if (own === 0) return 0;
  const common = adapted[1] - (isCommon ? own : 0);
  const rare = adapted[2] - (isSampled ? own : 0);
  let others = rare * share;
  if (probability > leastProbability) {
    const scale = probability / base[0]; // from `base` to probabilities
    const rareMass = (base[2] - (isSampled ? base[0] : 0)) * scale;
    const otherMass = Math.max(0, 1 - base[1] * scale - (isCommon ? 0 : probability));
    const unchanged = (otherMass * adapted[0]) / probability;
    others = rareMass > leastMass ? otherMass * (rare / rareMass) : Math.max(others, unchanged);
  }
  // Differences of sums that are rounded may be below 0.
  return own / (own + Math.max(0, common) + Math.max(0, others));
}
