/**
 * Every bound on a set of artifacts, in one table: training, publisher, edge and backends enforce it, FORMAT.md shows it.
 * A set beyond one is refused with the name, the limit and the value, before anything is allocated for it.
 * Not here: bounds on requests (`shared/contracts/limits.ts`), and on the weights of a model.
 */
import { templateLimits } from "../tokenizer/template-limits.ts";

export const setLimits = {
  /** The pointer: 100 switches take 14 kB. */
  pointerBytes: 65_536,
  pointerSwitches: 100,
  /** manifest.json: 1,024 centroids take 1 MB. An edge isolate has 128 MB and parses it in them. */
  manifestBytes: 2_097_152,
  /** Values in manifest.json, nested ones included. A schema reports each wrong value, at some 700 bytes a report. */
  manifestValues: 65_536,
  /** An edge isolate holds two sets; GPT-2's table has 3.5 MB. */
  edgeTableBytes: 16_777_216,
  /** 65,536 ids with their merges take 0.7 MB. */
  tokenizerBytes: 1_048_576,
  /** 1,024 gates over GPT-2's vocabulary take 210 MB. */
  hyperNetworkBytes: 268_435_456,
  /** Header of a tensor file. That of the largest GPT-2 with its 580 tensors has 60 kB. */
  tensorHeaderBytes: 1_048_576,
  tensorsPerFile: 8192,
  tensorNameCharacters: 256,
  tensorDimensions: 8,
  /** V. Token ids are stored in 16 bits. */
  vocabulary: 65_536,
  /** Bytes of one token. GPT-2's longest has 128. */
  pieceBytes: 512,
  /** Ranks are stored in 16 bits. */
  merges: 65_536,
  /** Neighbouring slots of the merge table that are occupied: what a look-up may visit. GPT-2's longest run is 18. */
  mergeRun: 256,
  /** D. GPT-2 XL has 1,600. */
  hiddenSize: 16_384,
  /** GPT-2 XL has 48. */
  layers: 512,
  /** GPT-2 XL has 25. */
  heads: 512,
  /** GPT-2 has 1,024. */
  contextTokens: 131_072,
  /** P. Training uses 64. */
  dimensions: 1024,
  /** K. Each request is compared with all of them, and /v1/centroids lists them. */
  centroids: 1024,
  /** Q = R + M of a gated bank. Training uses 72; each costs D + V products for each token. */
  gates: 4096,
  /** R of a pair of the full kind. A pool slot takes R · (D + V) floats. */
  pairRank: 64,
  /** H of each hidden layer. Training uses 32 and 64. */
  hiddenUnits: 4096,
  /** Strings of a centroid's label, and characters of each: they are pieces, and the page shows them. Training writes 5. */
  labels: 16,
  labelCharacters: 512,
  /** Of the model's name, the corpora's and their licences'. */
  nameCharacters: 256,
  chatTemplateCharacters: templateLimits.sourceCharacters,
  corpora: 1024,
  /** Rows of a calibration of evidence, by prompt length. */
  evidenceLengths: 32,
  /** Factor of similarity in the priors of a mixture. */
  similarityScale: 1000,
  /** Nats a token, in magnitude. A uniform guess over 65,536 ids has 11. */
  gainNats: 1000,
  /** Magnitude of a coordinate of the map. */
  position: 1_000_000,
  /**
   * Magnitude of every float in a tensor, and of what is generated from them. In the graph a row's sums run over its
   * mates' slots too, times 0: a product that overflows would be 0 · ∞ = NaN there, for every row of the step.
   */
  tensorValue: 1_000_000,
} as const;
