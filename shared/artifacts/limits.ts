/** Limits of a set of artifacts. Sizes are checked before reading, values after parsing. Errors name the limit and the value. */
import { templateLimits } from "../tokenizer/template-limits.ts";

export const setLimits = {
  /** A pointer with 100 switches to a set takes 14 kB. */
  pointerBytes: 65_536,
  pointerSwitches: 100,
  /** A manifest of 1,024 centroids has 1 MB. An edge isolate parses it within 128 MB. */
  manifestBytes: 2_097_152,
  /** Values in the JSON, nested ones included. A schema reports each invalid value in about 700 bytes. */
  manifestValues: 65_536,
  /** An edge isolate holds two sets; GPT-2's table takes 3.5 MB. */
  edgeTableBytes: 16_777_216,
  /** Llama 3.2's 128,256 ids with 280,147 merges take 3.4 MB. */
  tokenizerBytes: 4_194_304,
  /** 1,024 gates of a model that is 4,096 wide take 34 MB. */
  hyperNetworkBytes: 67_108_864,
  /** The largest GPT-2, with 580 tensors, has a header of 60 kB. */
  tensorHeaderBytes: 1_048_576,
  tensorsPerFile: 8192,
  tensorNameCharacters: 256,
  tensorDimensions: 8,
  /** V: token ids of a model. Qwen 2 and 3 have 151,936. */
  vocabulary: 262_144,
  /** Bytes of one token. GPT-2's longest has 128. */
  pieceBytes: 512,
  /** Llama 3 has 280,147. Several merges may make the same piece. */
  merges: 524_288,
  /** Qwen 3 has 293, most of them unused. */
  specialTokens: 1024,
  /** Consecutive occupied slots of the merge table, which a look-up may visit. GPT-2's longest run is 18. */
  mergeRun: 256,
  /** GPT-2 XL has 1,600. */
  hiddenSize: 16_384,
  /** GPT-2 XL has 48. */
  layers: 512,
  /** GPT-2 XL has 25. */
  heads: 512,
  /** GPT-2 has 1,024. */
  contextTokens: 131_072,
  /** Llama 3.2 has 3. */
  stopIds: 16,
  /** Dimensions of the prompt space. Training uses 64. */
  dimensions: 1024,
  /** Each request is compared with all centroids, and /v1/centroids lists them. */
  centroids: 1024,
  /** Directions of the bank. Training uses 121. Each costs 2 · D multiplications at every position whose logits are computed. */
  gates: 4096,
  /** Units of the hyper-network's hidden layer. Training uses 32. */
  hiddenUnits: 4096,
  /** Pieces in a centroid's label; training writes 5. `labelCharacters`: characters of each piece. */
  labels: 16,
  labelCharacters: 512,
  /** Names of the model, the corpora and their licences. */
  nameCharacters: 256,
  chatTemplateCharacters: templateLimits.sourceCharacters,
  corpora: 1024,
  /** Maximum of `evidence.similarityScale`. */
  similarityScale: 1000,
  /** Magnitude of a gain, in nats a token. A uniform guess over 262,144 ids has a loss of 12 nats. */
  gainNats: 1000,
  /** Magnitude of a map coordinate. */
  position: 1_000_000,
  /** Magnitude of floats in tensors and of generated values, so that products in the graph cannot overflow to infinity or NaN. */
  tensorValue: 1_000_000,
} as const;

/** Rank of all own adapters. Fixed, so that a row's matrix products have the same shape in any batch. */
export const ownRank = 8;
