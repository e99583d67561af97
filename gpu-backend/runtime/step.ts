/**
 * What one run of the graph takes and gives, as tensors. The engine knows the rows of model-runner.ts in their place.
 * S sequences, T tokens (right-padded), D hidden, Q gates, V vocabulary, L layers, H heads of keys and values, d head width,
 * P past positions of the feed, G tokens of a chunk that has begun, M positions that the head is computed at, N rows of the head.
 *
 * Batch invariance: a row's results are the same bits whatever its mates, P and padding, as long as T is 1 in both
 * runs or a multiple of `minPrefillTokens` in both, and then S is 1 in both or in neither (a chunk of one prompt has an operator
 * of its own). Attention takes queries in blocks of an even number; one that is alone in its block has a matrix-vector kernel,
 * which sums in another order. So a decode step has T = 1, and a prefill pass has one row and an even number of tokens.
 */

export const minPrefillTokens = 2;

/** Candidates that a step gives per head row, or V where that is smaller. */
export const topCandidates = 64;

export interface StepInput extends HeadInput {
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
   * Keys, then values, of each layer, as arrays of [S, H, P, d]; of int8 ones then their scales, [S, H, P, 1] each. Positions
   * beyond a row's past length are ignored, and so is any further array.
   */
  past: (Float32Array | Int8Array)[];
  /**
   * The past of the last `sequences` of S, if it has a P of its own: then `past` and `pastTokens` are of the other sequences.
   * Absent where `begunTokens` is given.
   */
  longPast?: { sequences: number; pastTokens: number; past: StepInput["past"] };
  /** Flat positions (row × T + column) that the head is computed at, the first of M. */
  headRows: Int32Array;
  /** States of earlier steps, [·, D]: the rest of M. */
  fedStates?: Float32Array;
}

/** What is computed of hidden states. */
export interface HeadInput {
  /** Which of the M positions each row of the head is of, [N]; several rows of one have different adapters. Absent: each once. */
  rows?: Int32Array;
  /** One row of gates per row, [N, Q]; zeros give the base. */
  gates: Float32Array;
  /** Absent: no row has a tenant's own adapter. */
  own?: OwnChanges | undefined;
  /** Reciprocal temperature of each row for `scaledLogSumExp`, [N]. */
  inverseTemperatures: Float32Array;
  /** A token id per row whose logit is wanted whatever its rank, [N]. */
  targetIds: Int32Array;
  /** What rows change of single logits. */
  bias: LogitChanges;
  /**
   * Which optional outputs to copy out; and what is read of every row, where it is less than all: the likeliest token is the only
   * candidate, with its `logSumExp` ("sums") or without it ("likeliest": it is finite exactly where it would be).
   */
  want: { scores: boolean; hidden: boolean; only?: "likeliest" | "sums" | undefined };
}

/** What a tenant's own adapter adds to a hidden state: Bᵀ·(A·h) + c. */
export interface HiddenChange {
  /** Aᵀ, [D, R] */
  a: Float32Array;
  /** B, then c, [R + 1, D] */
  b: Float32Array;
}
export interface WeightedChange {
  change: HiddenChange;
  weight: number;
}

/** Which rows have changes, and which of these E: X rows of K places. */
export interface OwnChanges {
  rows: Int32Array; // [X]
  changes: readonly HiddenChange[]; // [E]
  indexes: Int32Array; // [X, K]
  weights: Float32Array; // [X, K]
}

/** What a run without tokens has in place of them: it computes the head alone, on `fedStates`. */
export function noTokens() {
  const none = new Int32Array(0);
  const tokens = { sequences: 0, tokens: 1, tokenIds: none, positions: none, headRows: none };
  return { ...tokens, past: [], pastTokens: 1, pastLengths: none } satisfies Partial<StepInput>;
}

/** `values[i]` is added to logit `ids[i]` of row `rows[i]`. No (row, id) pair may occur twice. */
export interface SparseBias {
  rows: Int32Array;
  ids: Int32Array;
  values: Float32Array;
}

/**
 * What is done to the logits that are named, in this order: a logit above 0 is divided by its penalty, any other multiplied by it
 * (repetition as CTRL penalises it, arXiv 1909.05858); `values` are added.
 */
export interface LogitChanges extends SparseBias {
  /** Above 0; absent: 1. */
  penalties?: Float32Array;
}

export interface StepOutput extends RowOutput {
  /** New keys and values, [2L, S, H, T, d]: layer l's keys at 2l, its values at 2l + 1. */
  present: Float32Array<ArrayBuffer>;
  /** What enters the last feed-forward part, [S, T, D]: the head can be computed of it later (`fedStates`). */
  states: Float32Array<ArrayBuffer>;
  /** Final hidden states (after the last layer norm) of the head's positions, [M, D]. */
  hidden: Float32Array | null;
}

export interface RowOutput {
  /** K, the width of the two below (`topCandidates`, or V where that is smaller; 1 of `want.only`). */
  topCount: number;
  /** Highest logits of each row, descending, ties by lower id, [N, K]. */
  topScores: Float32Array;
  topIds: Int32Array;
  /** log Σ exp(logits), [N]: a logprob is logit − logSumExp. */
  logSumExp: Float32Array;
  /** log Σ exp(logits · inverseTemperature), [N]. */
  scaledLogSumExp: Float32Array;
  /** [N] */
  targetScores: Float32Array;
  /** Logits, [N, V]. */
  scores: Float32Array | null;
}

/** How keys and values are stored: as they are, or as int8 with a scale for each position and head. */
export type KvFormat = "fp32" | "int8";

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
  /** Of the past that it takes; absent: fp32. */
  readonly kvFormat?: KvFormat;
  run(input: StepInput): Promise<StepOutput>;
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

/** The gated bank: h' = h + ((h·Aᵀ + a₀) ⊙ g)·B, before the head. */
export interface Bank {
  gates: number; // Q = R + M
  a: Float32Array; // [Q, D]; zero rows for the M bias directions
  a0: Float32Array; // [Q]; 1 for the M bias directions, else 0
  b: Float32Array; // [Q, D]
}
