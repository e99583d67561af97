const pastNames = (rows: "past" | "long") => ({
  mask: `${rows}_mask`,
  keys: (layer: number) => `${rows}_key.${layer}`,
  values: (layer: number) => `${rows}_value.${layer}`,
  /** Scale of each position and head, only if keys and values are int8. */
  keyScales: (layer: number) => `${rows}_key_scale.${layer}`,
  valueScales: (layer: number) => `${rows}_value_scale.${layer}`,
});

/** Names of the serving graph's inputs and outputs. Shapes are in model-graph.ts, attention-graph.ts and head-graph.ts. */
export const names = {
  tokenIds: "token_ids",
  positions: "positions",
  causalMask: "causal_mask",
  begun: "begun",
  past: pastNames("past"),
  /** The past of the rows in `longPast` (step.ts), and whether the step has such rows. */
  long: pastNames("long"),
  hasLong: "has_long",
  /** `isChunk`: the step is a chunk of one prompt. `positionCount`: positions of the prompt's row after the step. */
  isChunk: "is_chunk",
  positionCount: "position_count",
  wantsTrunk: "wants_trunk",
  /** The head is computed at positions of the step (`headRows`), then at states of earlier steps. */
  headRows: "head_rows",
  fedStates: "fed_states",
  /** Whether the last feed-forward part is computed at the head's positions. */
  wantsHidden: "wants_hidden",
  /**
   * `rows`: index of each head row's position among the head's positions. `wanted`: whether rows are computed. `scaled`: whether a row
   * has a temperature other than 1.
   */
  rows: "rows",
  wanted: "wanted",
  scaled: "scaled",
  /** `ranked`: whether a row needs more than one candidate. `summed`, if not `ranked`: whether a row needs `logSumExp`. */
  ranked: "ranked",
  summed: "summed",
  gates: "gates",
  /** Tenants' own adapters: whether a row has one, which rows, index and weight of each adapter of such a row, and the adapters. */
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
  /** The names from here on are only for graphs of device-graph.ts. `embedding` is the token embedding, [V, D]. */
  embedding: "embedding",
  /** Keys and values of all rows: `kept` before a run, `grown` after the run, in the same buffers. */
  kept: (array: number) => `kept.${array}`,
  grown: (array: number) => `grown.${array}`,
  /** Index of each row's last position after the run, and the number of positions of the longest row. */
  lastPositions: "last_positions",
  longest: "longest",
  packedShape: "packed_shape",
  /** States of all positions before and after a run, and the indexes of the states that the trunk writes or the head reads. */
  keptStates: "kept_states",
  grownStates: "grown_states",
  statesAt: "states_at",
  /** Sum of the magnitudes of each new state's elements. The sum is finite only if every element is. */
  magnitudes: "magnitudes",
  /** For calibration: sum of squares of each of a product's input channels over the tokens of a step. */
  inputSquares: (product: string) => `input_squares.${product}`,
} as const;
