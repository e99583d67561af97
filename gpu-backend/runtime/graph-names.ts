/** Inputs of the past of a step's rows, for each layer. */
const pastNames = (rows: "past" | "long") => ({
  mask: `${rows}_mask`,
  keys: (layer: number) => `${rows}_key.${layer}`,
  values: (layer: number) => `${rows}_value.${layer}`,
  /** Only if keys and values are int8: each is multiplied by the scale of its position and head. */
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
  /** The past of `longPast` (step.ts), and whether there is one. */
  long: pastNames("long"),
  hasLong: "has_long",
  /** `isChunk`: the step is a chunk of one prompt. `positionCount`: how many positions that prompt's row then has. */
  isChunk: "is_chunk",
  positionCount: "position_count",
  wantsTrunk: "wants_trunk",
  /** Positions of this step, then states of earlier steps, that the head is computed for. */
  headRows: "head_rows",
  fedStates: "fed_states",
  /** Whether the last feed-forward part is computed for the states of the head's positions. */
  wantsHidden: "wants_hidden",
  /**
   * `rows`: index of each row's position among those of the head. `wanted`: rows are computed. `scaled`: a row has another temperature than
   * 1.
   */
  rows: "rows",
  wanted: "wanted",
  scaled: "scaled",
  /** `ranked`: a row needs more than one candidate. `summed`, if not `ranked`: a row needs `logSumExp`. */
  ranked: "ranked",
  summed: "summed",
  gates: "gates",
  /** Tenants' own adapters: the rows that have some, the index and weight of each adapter of such a row, and the adapters. */
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
  /** Only graphs of device-graph.ts have the names below. The token embedding, [V, D], is shared by trunk and head. */
  embedding: "embedding",
  /** Keys and values of all rows before and after a run, which are the same buffers. */
  kept: (array: number) => `kept.${array}`,
  grown: (array: number) => `grown.${array}`,
  /** Index of each row's last position after the run, and the positions of the longest row. */
  lastPositions: "last_positions",
  longest: "longest",
  /** [S, T, (H + 2K) · d], the shape of the packed queries, keys and values. */
  packedShape: "packed_shape",
  /** States of all rows' positions before and after a run, and which of them a run writes or reads. */
  keptStates: "kept_states",
  grownStates: "grown_states",
  statesAt: "states_at",
  /** Sum of the magnitudes of each new state: not finite if any element is not. */
  magnitudes: "magnitudes",
  /** Sums of squares of a product's input channels over a step's tokens, for calibration. */
  inputSquares: (product: string) => `input_squares.${product}`,
} as const;
