/** Input and output names of the serving graph; shapes are in gpt2-graph.ts, attention-graph.ts and head-graph.ts. */
export const names = {
  tokenIds: "token_ids",
  positions: "positions",
  pastMask: "past_mask",
  causalMask: "causal_mask",
  begun: "begun",
  pastKey: (layer: number) => `past_key.${layer}`,
  pastValue: (layer: number) => `past_value.${layer}`,
  /** Mask, keys and values of `longPast` (step.ts), and whether there is one. */
  longMask: "long_mask",
  longKey: (layer: number) => `long_key.${layer}`,
  longValue: (layer: number) => `long_value.${layer}`,
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
  plain: {
    ...rowNames(""),
    /** Whether any row needs more than its likeliest token. */
    ranked: "ranked",
    gates: "gates",
    biasOffsets: "bias_offsets",
  },
  mixed: {
    ...rowNames("mixed_"),
    /** Whether there are mixed rows, and whether full ones have adapters. */
    wantsExperts: "wants_experts",
    hasAdapters: "has_adapters",
    /** Which rows have their adapters' probabilities of all tokens. */
    fullRows: "full_rows",
    /** Rows whose adapters' probabilities of the target are estimated, whether there are any, and what that takes. */
    sampledRows: "sampled_rows",
    sampledGates: "sampled_gates",
    hasSampled: "has_sampled",
    baseSums: "base_sums",
    adapterSums: "adapter_sums",
    /** A target's delta is the sum of these; the graph's own sums may differ in bits where more rows run. */
    targetDeltaParts: "target_delta_parts",
    /** Which rows' probabilities of the experts come out, to be mixed later, and those. */
    keptRows: "kept_rows",
    keptAdapterRows: "kept_adapter_rows",
    keptBase: "kept_base",
    keptAdapters: "kept_adapters",
    rowFactors: "row_factors",
    gates: "adapter_gates",
    hasAdapterBias: "has_adapter_bias",
    adapterBiasIndices: "adapter_bias_indices",
    adapterBiasValues: "adapter_bias_values",
    baseWeights: "base_weights",
    adapterWeights: "adapter_weights",
    baseTargets: "base_targets",
    adapterTargets: "adapter_targets",
    pointerKeys: "pointer_keys",
    pointerQueries: "pointer_queries",
    pointerMask: "pointer_mask",
    pointerSharpness: "pointer_sharpness",
    pointerRows: "pointer_rows",
    pointerIds: "pointer_ids",
    pointerWeights: "pointer_weights",
    pointerSentinels: "pointer_sentinels",
    pointerOdds: "pointer_odds",
    cosines: "cosines",
  },
  present: "present",
  hidden: "hidden",
  keys: "keys",
} as const;

/** Of one kind of head row: which of the head's rows are of it, what is asked of them, and what comes out. */
function rowNames(prefix: string) {
  return {
    rows: `${prefix}rows`,
    /** Whether they are computed (of mixed rows, the mixture), and whether any has a temperature other than 1. */
    wanted: `${prefix}wanted`,
    scaled: `${prefix}scaled`,
    inverseTemperatures: `${prefix}inverse_temperatures`,
    targetIds: `${prefix}target_ids`,
    biasIndices: `${prefix}bias_indices`,
    biasPenalties: `${prefix}bias_penalties`,
    biasValues: `${prefix}bias_values`,
    topScores: `${prefix}top_scores`,
    topIds: `${prefix}top_ids`,
    topProbability: `${prefix}top_probability`,
    scaledTopProbability: `${prefix}scaled_top_probability`,
    targetScores: `${prefix}target_scores`,
    scores: `${prefix}scores`,
  };
}
export type RowNames = ReturnType<typeof rowNames>;
