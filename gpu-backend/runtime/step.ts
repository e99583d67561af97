/**
 * Inputs and outputs of one run of the graph. kv/host-runner.ts makes the inputs from rows.
 * Shapes: S sequences, T tokens (right-padded), D hidden, Q gates, V vocabulary, L layers, H heads of keys and values, d head width, P
 * past positions of the feed, G tokens of a prompt chunk that earlier steps have computed, M positions that the head is computed at, N
 * rows of the head.
 *
 * Batch invariance: a row has the same bits in two runs with any other rows, P and padding, if (1) T is 1 in both, or a multiple of
 * `minPrefillTokens` in both, and (2) unless T is 1, S is 1 in both or above 1 in both. Reason for (1): attention takes queries in blocks
 * of an even number, and computes a query that is alone in its block by another kernel, which sums in another order. Reason for (2): a
 * chunk of one prompt has an attention operator of its own. So a decode step has T = 1, and a prefill pass has one row and an even T.
 */

export const minPrefillTokens = 2;

/** Number of candidates of a row; V if V is smaller. */
export const topCandidates = 64;

export interface StepInput extends HeadInput {
  /** S. If S is 0, only the head runs, on `fedStates`. */
  sequences: number;
  /** T, tokens of a sequence. */
  tokens: number;
  /** P, positions of a past. */
  pastTokens: number;
  /** [S, T]; any valid id at padding. */
  tokenIds: Int32Array;
  /** [S, T]; any valid position at padding. */
  positions: Int32Array;
  pastLengths: Int32Array; // [S], valid positions of each row's past
  /** G: attention sums over the last G positions of the past with the new tokens, so that the bits equal those of a whole chunk. */
  begunTokens?: number;
  /** Keys, then values, of each layer, [S, H, P, d]; for int8 then the scales, [S, H, P, 1]. Positions past a row's length are ignored. */
  past: (Float32Array | Int8Array)[];
  /**
   * If true, the S rows are consecutive tokens of one sequence, whose `past` is given once, with P above each row's length. Each row has
   * the bits that it would have in a step of its own, after the rows before it. Excludes `longPast`.
   */
  drafts?: boolean;
  /** A past with its own P for the last `sequences` rows. `past` is then for the rows before these. Excludes `begunTokens`. */
  longPast?: { sequences: number; pastTokens: number; past: StepInput["past"] };
  /** The first of the M positions, each given as row × T + column. */
  headRows: Int32Array;
  /** The last of the M positions, given as states of earlier steps, [·, D]. */
  fedStates?: Float32Array;
}

export interface HeadInput {
  /** Index of each row among the M positions, [N]. Rows may share a position and differ in adapters. Default: one row for each position. */
  rows?: Int32Array;
  /** [N, Q]. Rows of zeros give the base. */
  gates: Float32Array;
  own?: OwnChanges | undefined;
  /** Used for `scaledLogSumExp`, [N]. */
  inverseTemperatures: Float32Array;
  /** One token for each row, [N]. Its logit is returned even if the token is not a candidate. */
  targetIds: Int32Array;
  bias: LogitChanges;
  /** With `only`, rows need just their likeliest token. "likeliest": `logSumExp` is any number that is finite if the true value is. */
  want: { scores: boolean; hidden: boolean; only?: "likeliest" | "sums" | undefined };
}

/** Adds Bᵀ·(A·h) + c to a hidden state h. */
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

/** Own adapters of X rows. Each row has K of the E `changes`, given by index and weight. */
export interface OwnChanges {
  rows: Int32Array; // [X]
  changes: readonly HiddenChange[]; // [E]
  indexes: Int32Array; // [X, K]
  weights: Float32Array; // [X, K]
}

/** Fields of a run of the head alone, on `fedStates`. */
export function noTokens() {
  const none = new Int32Array(0);
  const tokens = { sequences: 0, tokens: 1, tokenIds: none, positions: none, headRows: none };
  return { ...tokens, past: [], pastTokens: 1, pastLengths: none } satisfies Partial<StepInput>;
}

/**
 * Entry i is for logit `ids[i]` of row `rows[i]`; no pair (row, id) may occur twice. A logit above 0 is divided by its penalty, another
 * logit is multiplied by it (the repetition penalty of CTRL, arXiv 1909.05858). Then the value is added.
 */
export interface LogitChanges {
  rows: Int32Array;
  ids: Int32Array;
  values: Float32Array;
  /** Above 0. Default: 1. */
  penalties?: Float32Array;
}

export interface StepOutput extends RowOutput {
  /** New keys and values, [2L, S, H, T, d]: layer l's keys at 2l, its values at 2l + 1. */
  present: Float32Array<ArrayBuffer>;
  /** Inputs of the last feed-forward part, [S, T, D], for a later run's `fedStates`. */
  states: Float32Array<ArrayBuffer>;
  /** States after the last layer norm, [M, D]; null unless `want.hidden`. */
  hidden: Float32Array | null;
}

export interface RowOutput {
  /** K: 1 if `want.only` is set, else `topCandidates`, or V if V is smaller. */
  topCount: number;
  /** The highest logits, [N, K], descending, ties by lower id. */
  topScores: Float32Array;
  topIds: Int32Array;
  /** log Σ exp(logits), [N]. A log-probability is logit − logSumExp. */
  logSumExp: Float32Array;
  /** log Σ exp(logits · inverseTemperature), [N]. */
  scaledLogSumExp: Float32Array;
  /** Logits of `targetIds`, [N]. */
  targetScores: Float32Array;
  /** All logits, [N, V]; null unless `want.scores`. */
  scores: Float32Array | null;
}

/** Keys and values in int8 have a scale for each position and head. fp16 is for devices. */
export type KvFormat = "fp32" | "fp16" | "int8";

/** int8 keys and values of a position and head are round(x · greatest / max(m, least)), with the scale m / greatest, m = max |xᵢ|. */
export const int8Greatest = 127;
export const int8Least = 1e-30;

export interface StepRunner {
  readonly config: ModelShape;
  /** Q, gates of a row. */
  readonly gates: number;
  /** Cost of `longPast`, in bytes of keys and values that attention reads in the same time. Infinity if `longPast` is not accepted. */
  readonly classBytes: number;
  /** Format of the past. Default: fp32. */
  readonly kvFormat?: KvFormat;
  /** Cost of a further row of `drafts`, as a share of a step's. Default: Infinity, for a runner without `drafts`. */
  readonly draftCost?: number;
  run(input: StepInput): Promise<StepOutput>;
  release(): Promise<void>;
}

export interface ModelShape {
  vocabularySize: number; // V
  hiddenSize: number; // D
  layers: number; // L
  heads: number; // H, of queries
  kvHeads: number; // K, of keys and values; a divisor of `heads`
  headWidth: number; // d
  contextTokens: number;
  stopIds: readonly number[]; // end a text
}

/** The gated bank: h' = h + ((h·Aᵀ + a₀) ⊙ g)·B. R directions depend on h, M are bias directions. */
export interface Bank {
  gates: number; // Q = R + M
  a: Float32Array; // [Q, D]; zero rows for the M bias directions
  a0: Float32Array; // [Q]; 1 for the M bias directions, else 0
  b: Float32Array; // [Q, D]
}
