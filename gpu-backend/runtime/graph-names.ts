/** Names of the inputs for the past of a step's rows. */
const pastNames = (rows: "past" | "long") => ({
  mask: `${rows}_mask`,
  keys: (layer: number) => `${rows}_key.${layer}`,
  values: (layer: number) => `${rows}_value.${layer}`,
  /** Only if keys and values are int8: the scale of each position and head. */
  keyScales: (layer: number) => `${rows}_key_scale.${layer}`,
  valueScales: (layer: number) => `${rows}_value_scale.${layer}`,
});

/** Input and output names of the serving graph; shapes are in model-graph.ts, attention-graph.ts and head-graph.ts. */
export const names = {
  tokenIds: "token_ids",
  positions: "positions",
  causalMask: "causal_mask",
  begun: "begun",
  past: pastNames("past"),
  /** The past of the rows in `longPast` (step.ts), and whether the step has such rows. */
  long: pastNames("long"),
  hasLong: "has_long",
  /** `isChunk`: the step is a chunk of one prompt. `positionCount`: number of positions of that prompt's row after the step. */
  isChunk: "is_chunk",
  positionCount: "position_count",
  wantsTrunk: "wants_trunk",
  /** Where the head is computed: at positions of this step, then at states of earlier steps. */
  headRows: "head_rows",
  fedStates: "fed_states",
  /** Whether the last feed-forward part is computed at the head's positions. */
  wantsHidden: "wants_hidden",
  /**
   * `rows`: for each row of the head, the index of its position among the head's positions. `wanted`: whether rows are computed. `scaled`:
   * whether a row has a temperature other than 1.
   */
  rows: "rows",
  wanted: "wanted",
  scaled: "scaled",
  /** `ranked`: whether a row needs more than one candidate. `summed`, if not `ranked`: whether a row needs `logSumExp`. */
  ranked: "ranked",
  summed: "summed",
  gates: "gates",
  /** Tenants' own adapters: whether rows have some, which rows, the index and weight of each adapter of such a row, and the adapters. */
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
  /** Only graphs of device-graph.ts have the names from here on. `embedding` is the token embedding, [V, D], of both trunk and head. */
  embedding: "embedding",
  /** Keys and values of all rows: `kept` before a run, `grown` after it, in the same buffers. */
  kept: (array: number) => `kept.${array}`,
  grown: (array: number) => `grown.${array}`,
  /** Index of each row's last position after the run, and the number of positions of the longest row. */
  lastPositions: "last_positions",
  longest: "longest",
  /** [S, T, (H + 2K) · d], the shape of the packed queries, keys and values. */
  packedShape: "packed_shape",
  /** States of all rows' positions before and after a run, and the indexes of the states that the run writes (trunk) or reads (head). */
  keptStates: "kept_states",
  grownStates: "grown_states",
  statesAt: "states_at",
  /** Sum of the magnitudes of each new state's elements. It is not finite if any element is not finite. */
  magnitudes: "magnitudes",
  /** Sum of squares of each of a product's input channels, over the tokens of a step, for calibration. */
  inputSquares: (product: string) => `input_squares.${product}`,
} as const;
