const pastNames = (rows: "past" | "long") => ({
  mask: `${rows}_mask`,
  keys: (layer: number) => `${rows}_key.${layer}`,
  values: (layer: number) => `${rows}_value.${layer}`,
  /** Used for int8 keys and values. */
  keyScales: (layer: number) => `${rows}_key_scale.${layer}`,
  valueScales: (layer: number) => `${rows}_value_scale.${layer}`,
});

/** attention-graph.ts, model-graph.ts and head-graph.ts have the shapes of these inputs and outputs. */
export const names = {
  tokenIds: "token_ids",
  positions: "positions",
  causalMask: "causal_mask",
  begun: "begun",
  past: pastNames("past"),
  /** The past of the rows in `longPast` (step.ts). */
  long: pastNames("long"),
  hasLong: "has_long",
  /** True if the step is a chunk of one prompt. Its row then has `positionCount` positions after the step. */
  isChunk: "is_chunk",
  positionCount: "position_count",
  isDrafts: "is_drafts",
  draftsAt: "drafts_at",
  wantsTrunk: "wants_trunk",
  /** The head is computed at `headRows` of the step, then at `fedStates` of earlier steps. */
  headRows: "head_rows",
  fedStates: "fed_states",
  wantsHidden: "wants_hidden",
  /** `rows` are indexes among the head's positions. `scaled`: a row has a temperature other than 1. */
  rows: "rows",
  wanted: "wanted",
  scaled: "scaled",
  /** `ranked`: a row needs more than one candidate. `summed` is read only if `ranked` is false: a row needs `logSumExp`. */
  ranked: "ranked",
  summed: "summed",
  gates: "gates",
  /** Tenants' own adapters, and which rows have them at which weight. */
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
  /** Names from here on are only for device-graph.ts. */
  embedding: "embedding",
  /** The same buffers before a run (`kept`) and after it (`grown`). */
  kept: (array: number) => `kept.${array}`,
  grown: (array: number) => `grown.${array}`,
  /** `longest` is the number of positions of the longest row after the run. */
  lastPositions: "last_positions",
  longest: "longest",
  /** The shape of the packed queries, keys and values: [S, T, (H + 2K) · d]. */
  packedShape: "packed_shape",
  /** States of all rows. The trunk writes them, the head reads them. */
  keptStates: "kept_states",
  grownStates: "grown_states",
  statesAt: "states_at",
  /** Sum of magnitudes of each state. The sum is finite only if every element is. */
  magnitudes: "magnitudes",
  /** Sum of squares of each of a product's input channels, for calibration. */
  inputSquares: (product: string) => `input_squares.${product}`,
} as const;
