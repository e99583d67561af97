/**
 * What one pass of the trunk takes and gives: the interface between the engine and whatever executes the graph.
 * S sequences, T tokens (right-padded), D hidden, Q gates, V vocabulary, L layers, H heads of keys and values, d head width,
 * P past positions of the feed, G tokens of a chunk that has begun, M head rows, N plain and X mixed rows of them,
 * J adapters of a mixed row.
 *
 * Batch invariance: a row's results are the same bits whatever its mates, P and padding, as long as T is 1 in both
 * runs or at least `minPrefillTokens` in both (at T = 1 attention takes a matrix-vector kernel that sums in
 * another order), and then S is 1 in both or in neither (a chunk of one prompt has an operator of its own). So a decode
 * step has T = 1, and a prefill pass has one row and pads to at least 2 tokens.
 */

export const minPrefillTokens = 2;

/** Candidates that a step gives per head row, or V where that is smaller. */
export const topCandidates = 64;

export interface StepInput {
  /** S; 0 runs the head alone, on fed states. */
  sequences: number;
  /** T */
  tokens: number;
  /** P: every array of `past` has room for this many positions. */
  pastTokens: number;
  /** [S, T]; any valid id where padded. */
  tokenIds: Int32Array;
  /** [S, T]; any valid position where padded. */
  positions: Int32Array;
  /** Valid positions of each row's past, [S]. */
  pastLengths: Int32Array;
  /**
   * G: of a prompt chunk that the step goes on with, so many tokens are the end of every row's past already. Attention
   * sums over them together with the new ones, so that results are the bits of the chunk computed at once. Absent: none.
   */
  begunTokens?: number;
  /**
   * Keys, then values, of each layer, then the pointer's keys and states, as arrays of [S, H, P, d]; positions beyond a row's
   * past length are ignored. A step whose rows mix no pointer may leave the last two out.
   */
  past: Float32Array[];
  /**
   * The past of the last `sequences` of S, if it has a P of its own: then `past` and `pastTokens` are of the other sequences.
   * Absent where `begunTokens` is given.
   */
  longPast?: { sequences: number; pastTokens: number; past: Float32Array[] };
  /** Flat positions (row × T + column) that the head is computed at; before the fed states, they are its rows. */
  headRows: Int32Array;
  /** States of earlier steps that the head is computed of, [·, D], as the pointer's pair of `present` holds them. */
  fedStates?: Float32Array;
  /** Which of the head's rows are plain, [N]; absent: all of `headRows`. */
  plainRows?: Int32Array;
  /** Rows of several experts. */
  mixed?: MixedInput;
  /** One row of gates per plain row, [N, Q]; zeros give the base. */
  gates: Float32Array;
  /** Reciprocal temperature of each plain row for `scaledLogSumExp`, [N]. */
  inverseTemperatures: Float32Array;
  /** A token id per plain row whose logit is wanted whatever its rank, [N]. */
  targetIds: Int32Array;
  /** What plain rows change of single logits. */
  bias: LogitChanges;
  /**
   * Which optional outputs to copy out; and whether nothing but the likeliest token is read of any plain row, whose
   * logSumExp is not computed then (it is finite exactly where it would be).
   */
  want: { scores: boolean; hidden: boolean; likeliestOnly?: boolean };
}

/** What a run without tokens has in place of them: it computes the head alone, on `fedStates`. */
export function noTokens(pastTokens: number) {
  const none = new Int32Array(0);
  const tokens = { sequences: 0, tokens: 1, tokenIds: none, positions: none, headRows: none };
  return { ...tokens, past: [], pastTokens, pastLengths: none } satisfies Partial<StepInput>;
}

/** What a run without plain rows has in place of them. */
export function noPlainRows() {
  const [ids, values] = [new Int32Array(0), new Float32Array(0)];
  const bias = { rows: ids, ids, values };
  return {
    plainRows: ids,
    gates: values,
    inverseTemperatures: values,
    targetIds: ids,
    bias,
  } satisfies Partial<StepInput>;
}

/** `values[i]` is added to logit `ids[i]` of row `rows[i]`. No (row, id) pair may occur twice. */
export interface SparseBias {
  rows: Int32Array;
  ids: Int32Array;
  values: Float32Array;
}

/**
 * What is done to the logits that are named, in this order: `offsets` are added (the row bias of a row's adapter); a logit
 * above 0 is divided by its penalty, any other multiplied by it (repetition as CTRL penalises it, arXiv 1909.05858); `values`
 * are added. The logit of a mixture's token is its log-probability, which is never above 0.
 */
export interface LogitChanges extends SparseBias {
  /** Absent: 0. Of plain rows only: experts of mixed rows have theirs (`adapterBias`). */
  offsets?: Float32Array;
  /** Above 0; absent: 1. */
  penalties?: Float32Array;
}

/** Rows whose distribution is a mixture of the base, J adapters and the pointer. */
export interface MixedInput {
  /** Which of the head's rows they are, [X]. */
  rows: Int32Array;
  /** J; a row of fewer adapters has zero gates and weight 0 in the rest. */
  adapters: number;
  gates: Float32Array; // [X, J, Q]
  /** Row bias of adapters: as a sparse bias, of adapter `adapters[i]` of row `rows[i]`. */
  adapterBias: SparseBias & { adapters: Int32Array };
  /** Token ids that every expert scores, [X]. */
  targetIds: Int32Array;
  /** Which of these rows' experts' probabilities come out, to be mixed later: `kept` of the output, in this order. */
  keep?: readonly number[];
  /** What rows whose experts only score the targets are compared with. */
  evidence?: PointerQueries;
  /** Absent: the experts only score the targets. */
  mixture?: MixtureInput & { pointer: PointerQueries };
}

/** How X rows are mixed. */
export interface MixtureInput {
  baseWeights: Float32Array; // [X]
  adapterWeights: Float32Array; // [X, J]
  inverseTemperatures: Float32Array; // [X]
  bias: LogitChanges;
  pointer: PointerInput;
}

/** Rows whose experts an earlier run kept. */
export interface KeptMixture extends MixtureInput {
  /** J */
  adapters: number;
  experts: ExpertProbabilities;
  /** Of each row's key and those of its prompt, [X, P]. */
  cosines: Float32Array;
  wantsScores: boolean;
}

/** Probabilities of all tokens under the experts of U rows. */
export interface ExpertProbabilities {
  base: Float32Array; // [U, V]
  adapters: Float32Array; // [U, J, V]
}

/**
 * The pointer's keys of the prompts in `count` rows of the arena, asked by T head rows each. Results are the same bits for T = 1,
 * and for any T from `minPrefillTokens` on.
 */
export interface PointerQueries {
  keys: Float32Array; // [count, H, P, d]
  count: number;
  positions: number; // P
  /** Which of the head's rows ask each arena row, [count, T]; any where nobody asks. */
  queries: Int32Array;
  /** Where each mixed row's answer is, of count × T, [X]; any where it asks for none. */
  answers: Int32Array;
}

/** What the pointer of X rows copies from. The mass of position i goes to token id ids[i]. */
export interface PointerInput {
  /** P */
  positions: number;
  /** How many positions may be copied from, [X]. */
  lengths: Int32Array;
  /** θ: the softmax is of θ · cosine, [X]. */
  sharpness: Float32Array;
  /** κ: mass of the sentinel, where a position whose key is the same has 1, [X]. */
  sentinels: Float32Array;
  /** [X, P] */
  ids: Int32Array;
  /** What the pointer takes where the sentinel takes nothing, [X]. */
  weights: Float32Array;
  /** The weights by those of base and adapters together, which divide what the sentinel takes, [X]. */
  odds: Float32Array;
}

export interface StepOutput extends RowOutput {
  /** New keys and values, [2L, S, H, T, d]: layer l's keys at 2l, its values at 2l + 1; then the pointer's pair. */
  present: Float32Array<ArrayBuffer>;
  /** Final hidden states (after the last layer norm) of the head's rows, [M, D]. */
  hidden: Float32Array | null;
  /** null where the step had no mixed rows. */
  mixed: MixedOutput | null;
}

export interface MixedOutput {
  /** Probabilities of the targets: the base's [X], and the adapters' [X, J], of evidence estimates where the vocabulary is large. */
  baseTargets: Float32Array;
  adapterTargets: Float32Array;
  /** Of the rows of `keep`; null where there are none. */
  kept: ExpertProbabilities | null;
  /** Of each row's key and those in the row of the arena that it asks, [X, P]; null without `evidence`. */
  cosines: Float32Array | null;
  /** Of the mixture; null where it was not asked for. */
  rows: RowOutput | null;
}

/** What comes of the plain rows, or of the mixed ones. */
export interface RowOutput {
  /** Scores are logits, or of mixed rows likelihoods: probabilities up to a factor of the row. */
  areLikelihoods: boolean;
  /** K, the width of the two below (`topCandidates`, or V where that is smaller; 1 of `likeliestOnly`). */
  topCount: number;
  /** Highest scores of each row, descending, ties by lower id, [N, K]. */
  topScores: Float32Array;
  topIds: Int32Array;
  /** log Σ exp(logits), [N]: a logprob is logit − logSumExp. The logit of a likelihood is its logarithm (`logitOf`). */
  logSumExp: Float32Array;
  /** log Σ exp(logits · inverseTemperature), [N]. */
  scaledLogSumExp: Float32Array;
  /** [N] */
  targetScores: Float32Array;
  /** [N, V] */
  scores: Float32Array | null;
}

/** The least likelihood that a logarithm is taken of: less is none that float32 could hold. */
const leastLikelihood = 1e-37;

/** The logit that a score stands for, as precise as a score that is one. Lets NaN through. */
export function logitOf(score: number, isLikelihood: boolean): number {
  return isLikelihood ? Math.fround(Math.log(Math.max(score, leastLikelihood))) : score;
}

/** Executes steps. One implementation over ONNX Runtime; tests may bring another. */
export interface StepRunner {
  readonly config: ModelShape;
  /** Q */
  readonly gates: number;
  /**
   * What `longPast` adds to the time of a pass, as the number of bytes of keys and values that attention reads in that time.
   * Infinity where a pass over fewer positions takes no less time than one over many: then no step has a `longPast`.
   */
  readonly classBytes: number;
  /** A pass takes the time of reading so many bytes beside keys and values: its weights. */
  readonly passBytes: number;
  run(input: StepInput): Promise<StepOutput>;
  /** Of mixed rows, what `run` would give. */
  mix(input: KeptMixture): Promise<RowOutput>;
  release(): Promise<void>;
}

/** What the engine knows of a model: sizes, and where its text ends. */
export interface ModelShape {
  vocabularySize: number; // V
  hiddenSize: number; // D
  layers: number; // L
  /** Heads of queries. */
  heads: number; // H
  /** Heads of keys and values, a divisor of `heads`: as many heads of queries share each. */
  kvHeads: number; // K
  headWidth: number; // d
  contextTokens: number;
  /** Token ids that end a text. */
  stopIds: readonly number[];
}

/** The gated bank: delta = ((h·Aᵀ + a₀) ⊙ g)·Bᵀ. */
export interface Bank {
  gates: number; // Q = R + M
  a: Float32Array; // [Q, D]; zero rows for the M bias directions
  a0: Float32Array; // [Q]; 1 for the M bias directions, else 0
  b: Float32Array; // [Q, V]
}
