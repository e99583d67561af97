/**
 * The record of one set of artifacts: where training and serving meet. The byte layouts are in FORMAT.md.
 * The manifest hash, SHA-256 of manifest.json's bytes, travels with every micro-batch.
 */
import * as z from "zod";
import { limits } from "../contracts/limits.ts";
import { samplingSchema } from "../contracts/sampling.ts";
import { parseChecked } from "./checked-json.ts";
import { setLimits } from "./limits.ts";

export const manifestFormat = 1;

export const manifestFile = "manifest.json";
export const edgeTableFile = "edge-table.safetensors";
export const tokenizerFile = "tokenizer.safetensors";
export const hyperNetworkFile = "hyper-network.safetensors";

/** Names the static adapter, as `c0` does centroid 0's. */
export const staticId = "static";

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);
const upTo = (limit: number, from = 1) => z.int().min(from).max(limit);
const within = (magnitude: number) => z.number().min(-magnitude).max(magnitude);
const name = z.string().max(setLimits.nameCharacters);

const tensorName = z.string().max(setLimits.tensorNameCharacters);
const fileRecord = (bytes: number) =>
  z.strictObject({
    sha256,
    bytes: upTo(bytes, 0),
    tensors: z.record(
      tensorName,
      z.strictObject({ dtype: z.string().max(16), shape: z.array(count).max(setLimits.tensorDimensions) }),
    ),
  });

/** A difference of mean negative log-likelihoods in nats a token (positive: better), with its 95% interval. */
const nats = within(setLimits.gainNats);
const gain = z.strictObject({ nats, ci95: z.tuple([nats, nats]), tokens: count });

export const centroidSchema = z.strictObject({
  /** `c<k>` of centroid k. */
  id: z.string().regex(/^c(0|[1-9][0-9]{0,3})$/),
  /** SHA-256 over the centroid's vector [P] and scale, little-endian float32. */
  hash: sha256,
  /** Characteristic pieces, most characteristic first. */
  label: z.array(z.string().max(setLimits.labelCharacters)).max(setLimits.labels),
  /** Training windows assigned to it. */
  size: count,
  /** For maps only: the first two principal components of the centroids. */
  position: z.tuple([within(setLimits.position), within(setLimits.position)]),
  /** Factor on what the centroid's gates add to the static adapter's; 0: auto-off. */
  scale: z.number().min(0).max(1),
  /** Held-out gain over the base with this scale; null where nothing was held out. */
  gain: gain.nullable(),
});

const share = z.number().min(0).max(1);
/** How prompts weigh experts (`shared/math/evidence.ts`), as training calibrated it. */
export const evidenceSchema = z.strictObject({
  adapters: z
    .int()
    .min(1)
    .max(limits.mixtureAdapters - 1),
  similarityScale: z.number().min(0).max(setLimits.similarityScale),
  /** Prior of the base. */
  base: share,
  temper: share,
  floor: z.number().gt(0).max(1),
});

const weight = within(100);
export const memoryRuleSchema = z.strictObject({
  neighbours: upTo(256),
  theta: z.number().gt(0).max(1000),
  weights: z.tuple([weight, weight, weight, weight, weight, weight]),
  brakes: z.array(z.number().min(0).max(10)).min(1).max(16),
  brakePriors: z.array(share).min(1).max(16),
  maxShare: z.number().min(0).lt(1),
});

/** Makes a centroid's gates; the gates scale the directions of a bank that all centroids share. */
const hyperNetworkSchema = z.strictObject({
  /** SHA-256 of its tensor file. */
  hash: sha256,
  /** R low-rank directions and M bias directions: Q = R + M gates. */
  rank: upTo(setLimits.gates, 0),
  biases: upTo(setLimits.gates, 0),
  hidden: upTo(setLimits.hiddenUnits),
});

const shape = z.strictObject({
  format: z.literal(manifestFormat),
  model: z.strictObject({
    name,
    /** The `model` that public requests name. */
    servedAs: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$/),
    /** SHA-256 of model.safetensors. */
    weights: sha256,
    vocabularySize: upTo(setLimits.vocabulary),
    hiddenSize: upTo(setLimits.hiddenSize),
    contextTokens: upTo(setLimits.contextTokens),
    /** Token ids that end a choice: special tokens, such as the end of text and the end of a turn. */
    stopIds: z.array(count).min(1).max(setLimits.stopIds),
    /** Jinja, from its tokenizer_config.json; where it has none, chats are in Alpaca's style. */
    chatTemplate: z.string().max(setLimits.chatTemplateCharacters).optional(),
    /** What a request has that does not say otherwise; absent: `defaultSampling`. */
    sampling: samplingSchema
      .pick({ temperature: true, top_p: true, top_k: true, repetition_penalty: true })
      .partial()
      .optional(),
  }),
  /** Prompt embedding: P dimensions, from the first `prefixTokens` tokens. */
  embedding: z.strictObject({
    dimensions: upTo(setLimits.dimensions),
    prefixTokens: upTo(setLimits.contextTokens),
  }),
  hyperNetwork: hyperNetworkSchema,
  centroids: z.array(centroidSchema).min(1).max(setLimits.centroids),
  /** The adapter for every text, which lies under every centroid's. Absent: its gates are zeros. */
  static: z.strictObject({ gain: gain.nullable() }).optional(),
  /** Absent: the default of `shared/math/evidence.ts`. */
  evidence: evidenceSchema.optional(),
  /** How memories count (`shared/math/memory.ts`); absent: its default. */
  memory: memoryRuleSchema.optional(),
  /** These and no other: nothing in a set chooses the name of a file. */
  files: z.strictObject({
    [edgeTableFile]: fileRecord(setLimits.edgeTableBytes),
    [tokenizerFile]: fileRecord(setLimits.tokenizerBytes),
    [hyperNetworkFile]: fileRecord(setLimits.hyperNetworkBytes),
  }),
  /** Null where nothing was trained: the base alone is served. */
  training: z
    .strictObject({
      seed: z.int(),
      steps: count,
      corpora: z
        .array(z.strictObject({ name, sha256, documents: count, tokens: count, licence: name.nullable() }))
        .max(setLimits.corpora),
      /** Held-out perplexity of the base and of the adapters over all corpora. */
      basePerplexity: z.number(),
      adaptedPerplexity: z.number(),
    })
    .nullable(),
});

/** Fields that are each within bounds and contradict one another. */
export const manifestSchema = shape.superRefine((manifest, context) => {
  const { model, hyperNetwork, centroids, files } = manifest;
  const refuse = (path: PropertyKey[], message: string) => context.addIssue({ code: "custom", path, message });
  model.stopIds.forEach((id, i) => {
    if (id >= model.vocabularySize) {
      refuse(["model", "stopIds", i], `it must be below the vocabulary of ${model.vocabularySize}`);
    }
  });
  if (hyperNetwork.hash !== files[hyperNetworkFile].sha256) {
    refuse(["hyperNetwork", "hash"], `it must be the hash of ${hyperNetworkFile}`);
  }
  const gates = hyperNetwork.rank + hyperNetwork.biases;
  if (gates < 1 || gates > setLimits.gates) {
    refuse(["hyperNetwork", "rank"], `with its biases it must be 1 to ${setLimits.gates}, the limit gates`);
  }
  centroids.forEach(({ id }, k) => {
    if (id !== `c${k}`) refuse(["centroids", k, "id"], `it must be c${k}`);
  });
});

export type Manifest = z.infer<typeof manifestSchema>;
export type CentroidRecord = z.infer<typeof centroidSchema>;
export type FileRecord = z.infer<ReturnType<typeof fileRecord>>;
export type SetFile = keyof Manifest["files"];
/** The files that a manifest lists. */
export const setFiles: readonly SetFile[] = [edgeTableFile, tokenizerFile, hyperNetworkFile];

/** Whether a centroid serves the static adapter alone, or the base without one (auto-off): validation found no scale that gains, or held-out text says it lost. */
export function isAutoOff({ scale, gain: measured }: Pick<CentroidRecord, "scale" | "gain">): boolean {
  return scale === 0 || (measured !== null && measured.nats <= 0);
}

/** The dtype that deltas are computed in. */
const deltaDtype = "F32";

/**
 * Everything that an adapter is made from, as text: SHA-256 of it is the adapter's hash. `source` is the centroid's hash, or
 * `staticId`.
 */
export function adapterIdentity({ hyperNetwork }: Manifest, source: string): string {
  const { hash, rank, biases } = hyperNetwork;
  return [hash, source, rank, biases, deltaDtype].join("\n");
}

/** Parses manifest.json. Throws an Error that names the fields at fault with their values. */
export function parseManifest(json: string): Manifest {
  const bounds = { characters: setLimits.manifestBytes, values: setLimits.manifestValues };
  return parseChecked(manifestSchema, json, manifestFile, bounds);
}
