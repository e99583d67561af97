/** Schema of manifest.json, which describes a set of artifacts. FORMAT.md has the layouts of the set's files. */
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
export const memoriesFile = "memories.safetensors";

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

/** How much an adapter lowers the mean loss, in nats a token, with a 95% interval. Positive is better. */
const nats = within(setLimits.gainNats);
const gain = z.strictObject({ nats, ci95: z.tuple([nats, nats]), tokens: count });

export const centroidSchema = z.strictObject({
  id: z.string().regex(/^c(0|[1-9][0-9]{0,3})$/),
  /** SHA-256 of the centroid's vector [P] and scale, little-endian float32. */
  hash: sha256,
  /** Pieces of text that are typical of the centroid, the most typical first. */
  label: z.array(z.string().max(setLimits.labelCharacters)).max(setLimits.labels),
  /** Number of training windows. */
  size: count,
  /** Coordinates on the page's map: the first two principal components of the centroids. */
  position: z.tuple([within(setLimits.position), within(setLimits.position)]),
  /** Factor of the gates that the hyper-network makes. At 0 the centroid's adapter is off. */
  scale: z.number().min(0).max(1),
  /** Gain over the base on held-out text; null if too little text was held out. */
  gain: gain.nullable(),
  /** The centroid's memory, made of training text in `memoriesFile`. Its gain is over the centroid's adapter. Absent: it has none. */
  memory: z.strictObject({ tokens: upTo(limits.memoryTokens), gain: gain.nullable() }).optional(),
});

const share = z.number().min(0).max(1);
export const evidenceSchema = z.strictObject({
  /** Number of nearest centroids whose adapters may answer. */
  adapters: upTo(limits.mixtureAdapters - 1),
  /** A centroid's prior is proportional to exp(similarityScale · similarity). */
  similarityScale: z.number().min(0).max(setLimits.similarityScale),
  base: share,
  /** Factor of each token's log-likelihood. At 1 the weights are plain Bayes. */
  temper: share,
  floor: z.number().gt(0).max(1),
});

const weight = within(100);
const memoryRuleSchema = z.strictObject({
  /** Number of nearest keys that are used of each memory. */
  neighbours: upTo(256),
  /** A nearest key's share of the memory's prediction is proportional to exp(θ · cosine). */
  theta: z.number().gt(0).max(1000),
  /** Weights of `memoryFeatures` in a logistic function, which gives the memory's share in a step's prediction. */
  weights: z.tuple([weight, weight, weight, weight, weight, weight]),
  /** Factors of the memory's share. The prompt's own tokens weigh them. The first factor is 0. */
  brakes: z.array(z.number().min(0).max(10)).min(1).max(16),
  brakePriors: z.array(share).min(1).max(16),
  maxShare: z.number().min(0).lt(1),
});

/** The network that makes a centroid's gates: factors of the bank's directions, which all centroids share. */
const hyperNetworkSchema = z.strictObject({
  hash: sha256, // of the tensor file
  /** Numbers of low-rank and of bias directions. A centroid has a gate for each direction. */
  rank: upTo(setLimits.gates, 0),
  biases: upTo(setLimits.gates, 0),
  hidden: upTo(setLimits.hiddenUnits),
});

const shape = z.strictObject({
  format: z.literal(manifestFormat),
  model: z.strictObject({
    name,
    /** Name of the model in the field `model` of public requests. */
    servedAs: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$/),
    weights: sha256, // of the weights file (models/base.ts)
    vocabularySize: upTo(setLimits.vocabulary),
    hiddenSize: upTo(setLimits.hiddenSize),
    contextTokens: upTo(setLimits.contextTokens),
    /** Token ids that end a choice, such as the end of text and the end of a turn. */
    stopIds: z.array(count).min(1).max(setLimits.stopIds),
    /** A Jinja template. If it is absent, conversations are rendered in Alpaca's style. */
    chatTemplate: z.string().max(setLimits.chatTemplateCharacters).optional(),
    sampling: samplingSchema
      .pick({ temperature: true, top_p: true, top_k: true, repetition_penalty: true })
      .partial()
      .optional(),
  }),
  /** The prompt embedding: P dimensions, computed from the prompt's first `prefixTokens` tokens. */
  embedding: z.strictObject({
    dimensions: upTo(setLimits.dimensions),
    prefixTokens: upTo(setLimits.contextTokens),
  }),
  hyperNetwork: hyperNetworkSchema,
  centroids: z.array(centroidSchema).min(1).max(setLimits.centroids),
  /** The adapter to which every centroid's adapter is added. Absent: nothing is added. */
  static: z.strictObject({ gain: gain.nullable() }).optional(),
  /** Absent: `defaultCalibration` of shared/math/evidence.ts. */
  evidence: evidenceSchema.optional(),
  /** Absent: `defaultMemoryRule` of shared/math/memory.ts. */
  memory: memoryRuleSchema.optional(),
  /** The file names are fixed, so that a manifest cannot name other files. */
  files: z.strictObject({
    [edgeTableFile]: fileRecord(setLimits.edgeTableBytes),
    [tokenizerFile]: fileRecord(setLimits.tokenizerBytes),
    [hyperNetworkFile]: fileRecord(setLimits.hyperNetworkBytes),
    /** Present if a centroid has a memory. */
    [memoriesFile]: fileRecord(setLimits.memoriesBytes).optional(),
  }),
  /** null if the set serves the base alone. */
  training: z
    .strictObject({
      seed: z.int(),
      steps: count,
      corpora: z
        .array(z.strictObject({ name, sha256, documents: count, tokens: count, licence: name.nullable() }))
        .max(setLimits.corpora),
      basePerplexity: z.number(),
      adaptedPerplexity: z.number(),
    })
    .nullable(),
});

/** Refuses fields that contradict each other. */
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
  centroids.forEach(({ id, memory }, k) => {
    if (id !== `c${k}`) refuse(["centroids", k, "id"], `it must be c${k}`);
    if (memory && !files[memoriesFile]) refuse(["centroids", k, "memory"], `the set has no ${memoriesFile}`);
  });
});

export type Manifest = z.infer<typeof manifestSchema>;
export type CentroidRecord = z.infer<typeof centroidSchema>;
export type FileRecord = z.infer<ReturnType<typeof fileRecord>>;
export type SetFile = keyof Manifest["files"];
/** Files that every set has. */
export const setFiles = [edgeTableFile, tokenizerFile, hyperNetworkFile] as const;

/** All files of a set but manifest.json. */
export function filesOf({ files }: Pick<Manifest, "files">): [SetFile, FileRecord][] {
  return Object.entries(files) as [SetFile, FileRecord][];
}

export function isAutoOff({ scale, gain: measured }: Pick<CentroidRecord, "scale" | "gain">): boolean {
  return scale === 0 || (measured !== null && measured.nats <= 0);
}

/** Whether `auto` reads the centroid's memory. */
export function hasMemory({ memory }: Pick<CentroidRecord, "memory">): boolean {
  return memory !== undefined && (memory.gain === null || memory.gain.nats > 0);
}

/** The text whose SHA-256 is an adapter's hash. `source`: the centroid's hash, or `staticId`. */
export function adapterIdentity({ hyperNetwork }: Manifest, source: string): string {
  const { hash, rank, biases } = hyperNetwork;
  return [hash, source, rank, biases, "F32"].join("\n"); // F32 is the dtype that adapters are computed in
}

export function parseManifest(json: string): Manifest {
  const bounds = { characters: setLimits.manifestBytes, values: setLimits.manifestValues };
  return parseChecked(manifestSchema, json, manifestFile, bounds);
}
