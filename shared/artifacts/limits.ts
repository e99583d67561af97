/**
 * Limits of a set of artifacts, which training, publisher, edge and backends enforce. Sizes are checked before reading, values after
 * parsing. Errors name the limit and the value.
 * Not here: limits of requests (shared/contracts/limits.ts), and the size of a model's weights file.
 */
import { templateLimits } from "../tokenizer/template-limits.ts";

export const setLimits = {
  /** The pointer: 100 switches take 14 kB. */
  pointerBytes: 65_536,
  pointerSwitches: 100,
  /** manifest.json: 1,024 centroids take 1 MB. An edge isolate parses it within 128 MB. */
  manifestBytes: 2_097_152,
  /** Values in manifest.json, nested ones included. A schema reports each invalid value in about 700 bytes. */
  manifestValues: 65_536,
  /** An edge isolate holds two sets; GPT-2's table takes 3.5 MB. */
  edgeTableBytes: 16_777_216,
  /** Llama 3.2's 128,256 ids with 280,147 merges take 3.4 MB. */
  tokenizerBytes: 4_194_304,
  /** 1,024 gates of a model that is 4,096 wide take 34 MB. */
  hyperNetworkBytes: 67_108_864,
  /** Header of a tensor file. The largest GPT-2, with 580 tensors, has a header of 60 kB. */
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
  /** Tokens that text is never encoded to. Qwen 3 has 293, most of them unused. */
  specialTokens: 1024,
  /** Consecutive occupied slots of the merge table, all of which a look-up may visit. GPT-2's longest run is 18. */
  mergeRun: 256,
  /** D: width of a hidden state. GPT-2 XL has 1,600. */
  hiddenSize: 16_384,
  /** GPT-2 XL has 48. */
  layers: 512,
  /** GPT-2 XL has 25. */
  heads: 512,
  /** GPT-2 has 1,024. */
  contextTokens: 131_072,
  /** Llama 3.2 has 3. */
  stopIds: 16,
  /** P: dimensions of the prompt space. Training uses 64. */
  dimensions: 1024,
  /** K: number of centroids. Each request is compared with all of them, and /v1/centroids lists them. */
  centroids: 1024,
  /** Q: the bank's directions, R low-rank and M bias ones. Training uses 72. Each costs 2 · D multiplications per row of the head. */
  gates: 4096,
  /** H: units of a hidden layer of the hyper-network. Training uses 32 and 64. */
  hiddenUnits: 4096,
  /** Pieces in a centroid's label, which the page shows, and characters of each. Training writes 5. */
  labels: 16,
  labelCharacters: 512,
  /** Names of the model, the corpora and their licences. */
  nameCharacters: 256,
  chatTemplateCharacters: templateLimits.sourceCharacters,
  corpora: 1024,
  /** Maximum of `evidence.similarityScale`. */
  similarityScale: 1000,
  /** Magnitude of a gain, in nats a token. For scale: a uniform guess over 262,144 ids has a loss of 12. */
  gainNats: 1000,
  /** Magnitude of a map coordinate. */
  position: 1_000_000,
  /** Magnitude of every float in a tensor and of generated values, so that products in the graph cannot overflow to infinity or NaN. */
  tensorValue: 1_000_000,
} as const;

/** Rank of every tenant's own adapters. It is fixed, so that a row's matrix products have the same shape in any batch. */
export const ownRank = 8;
