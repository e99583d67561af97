/** Input and output names of the serving graph; shapes are in model-graph.ts, attention-graph.ts and head-graph.ts. */
export const names = {
  tokenIds: "token_ids",
  positions: "positions",
  pastMask: "past_mask",
  causalMask: "causal_mask",
  begun: "begun",
  pastKey: (layer: number) => `past_key.${layer}`,
  pastValue: (layer: number) => `past_value.${layer}`,
  /** Where keys and values are int8: what each stands for is its own times this, of its position and head. */
  pastKeyScale: (layer: number) => `past_key_scale.${layer}`,
  pastValueScale: (layer: number) => `past_value_scale.${layer}`,
  /** Mask, keys and values of `longPast` (step.ts), and whether there is one. */
  longMask: "long_mask",
  longKey: (layer: number) => `long_key.${layer}`,
  longValue: (layer: number) => `long_value.${layer}`,
  longKeyScale: (layer: number) => `long_key_scale.${layer}`,
  longValueScale: (layer: number) => `long_value_scale.${layer}`,
  hasLong: "has_long",
  /** Whether the step is the chunk of one prompt, and how many positions it has at its end. */
  isChunk: "is_chunk",
  positionCount: "position_count",
  wantsTrunk: "wants_trunk",
  /** What the head is computed from: positions of this step, then states of earlier ones. */
  headRows: "head_rows",
  fedStates: "fed_states",
  /** Whether the states of the head's rows go through what is left of the trunk. */
  wantsHidden: "wants_hidden",
  /** Which of the head's positions each row is of, whether rows are computed, and whether any has a temperature other than 1. */
  rows: "rows",
  wanted: "wanted",
  scaled: "scaled",
  /** Whether any row needs more than one candidate; if none does, whether any needs its `logSumExp`. */
  ranked: "ranked",
  summed: "summed",
  gates: "gates",
  /** Whether rows have a tenant's own adapter, which, what each place of theirs refers to, and all that are referred to. */
  hasOwn: "has_own",
  ownRows: "own_rows",
  ownIndexes: "own_indexes",
  ownWeights: "own_weights",
  ownA: "own_a",
  ownB: "own_b",
  inverseTemperatures: "inverse_temperatures",
  targetIds: "target_ids",
  biasIndices: "bias_indices",
  biasPenalties: "bias_penalties",
  biasValues: "bias_values",
  topScores: "top_scores",
  topIds: "top_ids",
  topProbability: "top_probability",
  scaledTopProbability: "scaled_top_probability",
  targetScores: "target_scores",
  scores: "scores",
  present: "present",
  states: "states",
  hidden: "hidden",
  /** Sums of squares of a product's input channels over a step's tokens, for calibration. */
  inputSquares: (product: string) => `input_squares.${product}`,
} as const;
