/**
 * The record of one set of artifacts: where training and serving meet. The byte layouts are in FORMAT.md.
 * The manifest hash, SHA-256 of manifest.json's bytes, travels with every micro-batch.
 */
import { z } from "zod";
import { templateLimits } from "../tokenizer/template-limits.ts";

export const manifestFormat = 1;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const fileRecord = z.strictObject({
  sha256,
  bytes: z.int().min(0),
  tensors: z.record(z.string(), z.strictObject({ dtype: z.string(), shape: z.array(z.int().min(0)) })),
});

/** A difference of mean negative log-likelihoods in nats a token (positive: better), with its 95% interval. */
const gain = z.strictObject({ nats: z.number(), ci95: z.tuple([z.number(), z.number()]), tokens: z.int() });

export const centroidSchema = z.strictObject({
  id: z.string().regex(/^[a-z0-9-]{1,32}$/),
  /** SHA-256 over the centroid's vector [P] and scale, little-endian float32. */
  hash: sha256,
  /** Characteristic pieces, most characteristic first. */
  label: z.array(z.string()),
  /** Training windows assigned to it. */
  size: z.int(),
  /** For maps only: the first two principal components of the centroids. */
  position: z.tuple([z.number(), z.number()]),
  /** Multiplies the gates, or the pair's B; 0 is auto-off: the base is served. */
  scale: z.number(),
  /** Held-out gain over the base with this scale; null where nothing was held out. */
  gain: gain.nullable(),
  /** Strength of the prompt bias on top of its adapter; absent, or 0: none. */
  promptBias: z.number().min(0).optional(),
});

/** A row bias from each request's own prompt (`unigram` in FORMAT.md), as strong as validation chose for each centroid. */
const promptBiasSchema = z.strictObject({
  /** An occurrence of a token of frequency p weighs 1 / (prior · p). */
  prior: z.number().positive(),
  /** Held-out gain on top of the adapters as they are shipped, over the 64 tokens after prompts of these lengths. */
  gains: z.array(z.strictObject({ promptTokens: z.int(), gain })),
});

const counts = z.array(z.int().min(0));

/** A hyper-network that makes a centroid's gates, of a bank that all centroids share. */
const gatedBankSchema = z.strictObject({
  kind: z.literal("gated-bank"),
  /** SHA-256 of its tensor file. */
  hash: sha256,
  /** R low-rank directions and M bias directions: Q = R + M gates. */
  rank: z.int(),
  biases: z.int(),
  hidden: z.int(),
});

/** A hyper-network that makes a whole low-rank pair for each centroid, as in arXiv 2502.04315. */
const fullSchema = z.strictObject({
  kind: z.literal("full"),
  hash: sha256,
  /** R of each pair. */
  rank: z.int().min(1),
  /** Units of its two hidden layers. */
  hidden: z.tuple([z.int().min(1), z.int().min(1)]),
});

export const manifestSchema = z.strictObject({
  format: z.literal(manifestFormat),
  model: z.strictObject({
    name: z.string(),
    /** The `model` that public requests name. */
    servedAs: z.string(),
    /** SHA-256 of model.safetensors. */
    weights: sha256,
    vocabularySize: z.int(),
    hiddenSize: z.int(),
    layers: z.int(),
    heads: z.int(),
    contextTokens: z.int(),
    endOfTextId: z.int(),
    /** Jinja, from its tokenizer_config.json; where it has none, chats are in Alpaca's style. */
    chatTemplate: z.string().max(templateLimits.sourceCharacters).optional(),
  }),
  /** Prompt embedding: P dimensions, from the first `prefixTokens` tokens. */
  embedding: z.strictObject({ dimensions: z.int(), prefixTokens: z.int() }),
  hyperNetwork: z.discriminatedUnion("kind", [gatedBankSchema, fullSchema]),
  centroids: z.array(centroidSchema).min(1),
  /** Absent: no prompt bias is served. */
  promptBias: promptBiasSchema.optional(),
  /** `edge-table.safetensors`, `tokenizer.safetensors` (edge and backend), `hyper-network.safetensors` (backend). */
  files: z.record(z.string(), fileRecord),
  /** Null where nothing was trained: the base alone is served. */
  training: z
    .strictObject({
      seed: z.int(),
      steps: z.int(),
      corpora: z.array(
        z.strictObject({
          name: z.string(),
          sha256,
          documents: z.int(),
          tokens: z.int(),
          licence: z.string().nullable(),
        }),
      ),
      /** Held-out perplexity of the base and of the adapters over all corpora. */
      basePerplexity: z.number(),
      adaptedPerplexity: z.number(),
      /**
       * How held-out text fell on the centroids, for each class of prompt lengths (`shared/math/assignment-profile.ts`):
       * what live traffic is compared with. Absent in older artifacts.
       */
      assignments: z.array(z.strictObject({ centroids: counts, similarities: counts })).optional(),
    })
    .nullable(),
});

export type Manifest = z.infer<typeof manifestSchema>;
export type CentroidRecord = z.infer<typeof centroidSchema>;
export type FileRecord = z.infer<typeof fileRecord>;

export const manifestFile = "manifest.json";
export const edgeTableFile = "edge-table.safetensors";
export const tokenizerFile = "tokenizer.safetensors";
export const hyperNetworkFile = "hyper-network.safetensors";

/** Whether a centroid serves the base (auto-off): validation found no scale that gains, or held-out text says it lost. */
export function isAutoOff({ scale, gain: measured }: Pick<CentroidRecord, "scale" | "gain">): boolean {
  return scale === 0 || (measured !== null && measured.nats <= 0);
}

/** The dtype that deltas are computed in. */
const deltaDtype = "F32";

/** Everything that a centroid's adapter is made from, as text: SHA-256 of it is the adapter's hash. */
export function adapterIdentity({ hyperNetwork }: Manifest, centroid: CentroidRecord): string {
  const shape = hyperNetwork.kind === "full" ? ["full", hyperNetwork.rank] : [hyperNetwork.rank, hyperNetwork.biases];
  return [hyperNetwork.hash, centroid.hash, ...shape, deltaDtype].join("\n");
}

/** Parses manifest.json. Throws an Error that names the offending field. */
export function parseManifest(json: string): Manifest {
  const parsed = manifestSchema.safeParse(JSON.parse(json));
  if (!parsed.success)
    throw new Error(`manifest.json is not a format-${manifestFormat} manifest: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}
