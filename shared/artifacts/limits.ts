/** Limits of a set of artifacts. Sizes are checked before reading, values after parsing. Errors name the limit and the value. */
import { templateLimits } from "../tokenizer/template-limits.ts";

export const setLimits = {
  /** 100 entries take 14 kB. */
  pointerBytes: 65_536,
  pointerSwitches: 100,
  /** A manifest of 1,024 centroids has 1 MB. */
  manifestBytes: 2_097_152,
  /** Values in the JSON, nested ones included. A schema reports each invalid value in about 700 bytes. */
  manifestValues: 65_536,
  /** GPT-2's table takes 3.5 MB. An edge isolate may hold two tables. */
  edgeTableBytes: 16_777_216,
  /** Llama 3.2's 128,256 ids with 280,147 merges take 3.4 MB. */
  tokenizerBytes: 4_194_304,
  /** 1,024 gates of a model that is 4,096 wide take 34 MB. */
  hyperNetworkBytes: 67_108_864,
  /** Memories of 1,024 centroids with 8,192 tokens each take 34 MB. */
  memoriesBytes: 67_108_864,
  /** The largest GPT-2, with 580 tensors, has a header of 60 kB. */
  tensorHeaderBytes: 1_048_576,
  tensorsPerFile: 8192,
  tensorNameCharacters: 256,
  tensorDimensions: 8,
  /** Qwen 2 and 3 have 151,936 token ids. */
  vocabulary: 262_144,
  /** Bytes of one token. GPT-2's longest has 128. */
  pieceBytes: 512,
  /** Llama 3 has 280,147 merges. */
  merges: 524_288,
  specialTokens: 1024,
  /** Consecutive occupied slots of the merge table, all of which a look-up may visit. GPT-2's longest run is 18. */
  mergeRun: 256,
  hiddenSize: 16_384,
  layers: 512,
  heads: 512,
  contextTokens: 131_072,
  stopIds: 16,
  dimensions: 1024,
  /** Each request is compared with every centroid. */
  centroids: 1024,
  gates: 4096,
  hiddenUnits: 4096,
  /** Pieces of text in a centroid's label. Training writes 5. */
  labels: 16,
  labelCharacters: 512,
  nameCharacters: 256,
  chatTemplateCharacters: templateLimits.sourceCharacters,
  corpora: 1024,
  similarityScale: 1000,
  /** Magnitude of a gain, in nats a token. */
  gainNats: 1000,
  position: 1_000_000,
  /** Magnitude of floats in tensors. Larger values could make products in the graph infinite. */
  tensorValue: 1_000_000,
} as const;

/** Rank of all own adapters. Fixed, so that a row's matrix products have the same shape in any batch. */
export const ownRank = 8;
