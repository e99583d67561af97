/**
 * The contract between edge and backend. Headers: `numericsHeader` and backend-headers.ts.
 *
 * - POST `/v1/batches`: a `BatchRequest`. The answer is NDJSON of `Frame`s, with blank lines as heartbeats. A backend that lacks a tenant's
 * adapter or memory refuses the batch with `adapter_not_found` or `memory_not_found`. The edge then PUTs what is missing and repeats the
 * call. A backend makes a centroid's memory by itself.
 * - POST `/v1/cancellations`: a `CancelRequest`.
 * - GET `/readyz`: answers a `Readiness`.
 * - POST `/v1/adapters`: fits a tenant's adapter (`AdapterRequest`). The answer's headers come when fitting begins, the body
 * (`adapterOutcomeSchema`) when fitting ends. Closing the connection cancels the fit.
 * - PUT, DELETE `/v1/adapters/TENANT/HASH`: stores or deletes an adapter that another backend fitted.
 * - PUT `/v1/memories/TENANT/HASH`: makes a memory of documents. The answer has `memoryProgressSchema` lines.
 * - DELETE `/v1/memories/TENANT/HASH`, `/v1/memories/TENANT`: deletes one memory, or all memories of a tenant.
 */
import * as z from "zod";
import { errorKinds, type ServiceError } from "../errors.ts";
import { limits } from "./limits.ts";
import { retrievalSchema, retrievedPassageSchema } from "./retrieval.ts";
import { samplingSchema } from "./sampling.ts";
import { tenantSchema } from "./tenant-name.ts";

/** A backend refuses calls of another version with `version_mismatch`. The edge then tries the next backend. */
export const contractVersion = 4;

/** After this time without a frame, a backend writes a blank line into the answer, which shows that the backend is alive. */
export const heartbeatMs = 500;

/** As many as one request may have choices. */
export const sequencesPerBatch = 128;

/**
 * Header with a numerics fingerprint: backends with equal fingerprints compute the same bits. An answer has its backend's fingerprint. A
 * call that resumes sequences has the fingerprint of their first backend; other backends refuse the call with `numerics_mismatch`. A header
 * is used, because older versions refuse unknown fields.
 */
export const numericsHeader = "x-chameleon-numerics";

const tokenId = z.int().min(0);
/** Strict, because ids become parts of logs, metrics and URLs. */
export const idPattern = /^[A-Za-z0-9_-]{1,64}$/;
const id = z.string().regex(idPattern);
export const hashPattern = /^[0-9a-f]{64}$/;
const hash = z.string().regex(hashPattern);

const share = z.number().min(0).max(1);
export const mixtureSchema = z.strictObject({
  /** With `evidence`: the base's prior weight. Without: the base's fixed weight. */
  base: share,
  /** Adapters of centroids or of the tenant. Their weights and `base` add up to 1. */
  adapters: z
    .array(
      z.union([
        z.strictObject({ centroidId: id, weight: share }),
        z.strictObject({ adapterHash: hash, weight: share }),
      ]),
    )
    .max(limits.mixtureAdapters),
  /** Without this field, the weights are fixed. */
  evidence: z
    .strictObject({
      /** Number of prompt tokens, from the first on, that are evidence. */
      tokens: z.int().min(0),
      /** Ascending token ranges [start, end), to which the evidence is restricted. */
      spans: z
        .array(z.tuple([z.int().min(0), z.int().min(0)]))
        .max(limits.chatMessages)
        .optional(),
      temper: z.number().min(0).max(1),
      floor: share,
    })
    .optional(),
});

export const sequenceRequestSchema = z.strictObject({
  id,
  tenant: tenantSchema,
  promptIds: z.array(tokenId).min(1),
  /**
   * Tokens that the client already has. The backend decodes them again, so that the next tokens have the same bits as at the first
   * backend.
   */
  continuedIds: z.array(tokenId),
  /** Maximum tokens of the completion, `continuedIds` included. */
  maxTokens: z.int().min(0),
  sampling: samplingSchema.partial(),
  /**
   * Milliseconds from arrival within which the sequence must start; otherwise the sequence ends in an error. The earliest deadline of a
   * tenant starts first. Absent: the sequence waits without limit, and is sorted as if due after a minute.
   */
  deadlineMs: z.int().min(1).optional(),
  /** Maximum milliseconds that a token's frame waits to be sent with others. The first frame and the last never wait. Absent: 0. */
  gatherMs: z.int().min(1).max(heartbeatMs).optional(),
  promptLogprobs: z.boolean(),
  /** Whether to report each token's logprob under the base as well. */
  compare: z.boolean(),
  /** The mixture that serves in place of the batch's adapter. */
  mixture: mixtureSchema.optional(),
  /** Memories of the tenant, then those of centroids. */
  memories: z
    .array(z.union([z.strictObject({ hash }), z.strictObject({ centroidId: id })]))
    .min(1)
    .max(limits.memoriesPerSequence)
    .optional(),
  /** Whether to report the passages that raised each token's probability. */
  sources: z.boolean().optional(),
  /** Which passages of `memories` to put into the prompt. Not allowed with `promptLogprobs`. */
  retrieval: retrievalSchema.optional(),
});

export const batchRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  /** Centroid whose adapter serves sequences without a mixture; null for the base. */
  centroidId: id.nullable(),
  /** Own adapter that serves instead of the centroid's adapter. All sequences must be of the adapter's tenant. */
  adapterHash: hash.optional(),
  sequences: z.array(sequenceRequestSchema).min(1).max(sequencesPerBatch),
});

const exampleSchema = z
  .strictObject({
    ids: z.array(tokenId).min(2),
    from: z.int().min(1),
  })
  .refine(({ ids, from }) => from < ids.length, "from must be less than the number of ids");
export const adapterRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  tenant: tenantSchema,
  examples: z.array(exampleSchema).min(2).max(limits.adapterExamples),
  /** Examples to measure the gain on. Absent: some of `examples` are held out. */
  validation: z.array(exampleSchema).min(2).max(limits.adapterExamples).optional(),
});
const gain = z.object({ nats: z.number(), ci95: z.tuple([z.number(), z.number()]), tokens: z.int() });
export const adapterAnswerSchema = z.object({
  /** The hash covers the tenant, so that equal adapters of two tenants have different hashes. */
  hash,
  /** Gain over the static adapter on held-out examples; null if only one was held out. */
  gain: gain.nullable(),
  /** Whether the gain's 95% interval is above zero. Other adapters change nothing. */
  kept: z.boolean(),
  losses: z.array(z.object({ step: z.int(), train: z.number(), heldOut: z.number() })), // in nats a learnt token
  tokens: z.int(),
  file: z.string(),
  timings: z.object({ hiddenMs: z.number(), fitMs: z.number() }),
});

export const memoryRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  /** The hash in the path is the `memoryHash` of these documents. */
  documents: z
    .array(z.strictObject({ name: z.string().min(1).max(limits.documentNameCharacters), text: z.string().min(1) }))
    .min(1)
    .max(limits.documents),
});
/** Lines of the answer: `progress` at least every `heartbeatMs`, and last `ready` or `error`. */
export const memoryProgressSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("progress"), tokens: z.int(), totalTokens: z.int() }),
  z.object({
    type: z.literal("ready"),
    tokens: z.int(),
    bytes: z.int(), // on disk
    /** Tokens whose keys had to be computed; 0 if the memory was stored. */
    computedTokens: z.int(),
  }),
  z.object({
    type: z.literal("error"),
    kind: z.enum(errorKinds),
    message: z.string(),
    retryAfterSeconds: z.number().nullable(),
  }),
]);

export const cancelRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  ids: z.array(id).min(1).max(sequencesPerBatch),
});

const alternatives = z.array(z.tuple([tokenId, z.number()]));
export const finishReasonSchema = z.enum(["stop", "length"]);

export const promptFrameSchema = z.object({
  type: z.literal("prompt"),
  id,
  /** Logprob of each prompt token; null for the first, which has no context. */
  logprobs: z.array(z.number().nullable()),
  alternatives: z.array(alternatives),
  baseLogprobs: z.array(z.number().nullable()).optional(), // with `compare`
});
export const tokenFrameSchema = z.object({
  type: z.literal("token"),
  id,
  /** Position in the completion, `continuedIds` included. */
  index: z.int().min(0),
  tokenId,
  logprob: z.number().optional(),
  alternatives: alternatives.optional(),
  baseLogprob: z.number().optional(),
  /** With `retrieval`, in the frame of index 0: prompt tokens of the passages and of the text around them. */
  retrievedTokens: z.int().min(0).optional(),
  /** Passages that raised the token's probability. Present with the request's `sources`, if the sequence has memories. */
  sources: z
    .object({
      share: z.number(),
      /** Largest `share` first. `share`: part of the token's probability that comes from the passage. */
      passages: z.array(
        z.object({
          memory: z.int(),
          /** Name of the document. Bytes [start, end) of its text are the token and some words before it. */
          document: z.string(),
          start: z.int(),
          end: z.int(),
          share: z.number(),
        }),
      ),
    })
    .optional(),
});
export const doneFrameSchema = z.object({
  type: z.literal("done"),
  id,
  finishReason: finishReasonSchema,
  /** null if the base serves. "generated": the adapter was made for this batch. */
  adapter: z.object({ hash, cache: z.enum(["hit", "generated"]), scale: z.number() }).nullable(),
  /**
   * The served mixture, or null. `evidence.nats`: lower bound on the mixture's gain over the base, in nats a prompt token. `evidence` is
   * null if the weights were fixed.
   */
  mixture: z
    .object({
      base: z.number(),
      adapters: z.array(z.object({ hash, weight: z.number() })),
      evidence: z.object({ nats: z.number(), tokens: z.int() }).nullable(),
    })
    .optional(),
  /** `brake`: factor of the memory's weight, which the prompt chose. At 0 the memory changes nothing. */
  memories: z.array(z.object({ hash, brake: z.number() })).optional(),
  /** With `retrieval`: the passages in the prompt, nearest first. */
  retrieved: z.array(retrievedPassageSchema).optional(),
  /** Includes tokens of retrieved passages. */
  promptTokens: z.int(),
  completionTokens: z.int(),
  reusedTokens: z.int().optional(),
  timings: z.object({ queueMs: z.number(), adapterMs: z.number(), prefillMs: z.number(), decodeMs: z.number() }),
});
export const errorFrameSchema = z.object({
  type: z.literal("error"),
  id,
  kind: z.enum(errorKinds),
  message: z.string(),
  retryAfterSeconds: z.number().nullable(),
});
/** Answer to POST `/v1/adapters`. The error frame's `id` has no meaning here. */
export const adapterOutcomeSchema = z.union([adapterAnswerSchema, errorFrameSchema]);
/** A sequence's frames in order: at most one `prompt`, any number of `token`, then one `done` or `error`. */
export const frameSchema = z.discriminatedUnion("type", [
  promptFrameSchema,
  tokenFrameSchema,
  doneFrameSchema,
  errorFrameSchema,
]);

/** Answer of `GET /readyz` once the backend has generated a token. Before that, the answer is an error. */
export const readinessSchema = z.object({
  status: z.literal("ready"),
  model: z.string(),
  servedAs: z.string(),
  manifestHash: hash,
  /** Manifests whose batches the backend accepts: two during a roll-out. */
  manifests: z.array(hash).optional(),
  /** Numerics fingerprint of the set with `manifestHash`; absent if it was not measured. */
  numerics: id.optional(),
  /** `adapter`: name of the tested GPU, or null. `found`: result of the self-test in words. */
  device: z
    .object({
      ...{ name: z.enum(["cpu", "webgpu"]), adapter: z.string().nullable(), driver: z.string().nullable() },
      ...{ selfTest: z.enum(["passed", "refused", "none"]), found: z.string() },
    })
    .optional()
    // The edge does not use `device`, so an unknown device must not make a backend unready.
    .catch(undefined),
  /** Why own adapters are kept in RAM only, such as `ENOSPC`; null if the disk works. */
  diskFault: z.string().nullable().optional(),
});

export type Readiness = z.infer<typeof readinessSchema>;
export type ServingDevice = NonNullable<Readiness["device"]>;
export type MixtureRequest = z.infer<typeof mixtureSchema>;
export type SequenceRequest = z.infer<typeof sequenceRequestSchema>;
export type BatchRequest = z.infer<typeof batchRequestSchema>;
export type AdapterRequest = z.infer<typeof adapterRequestSchema>;
export type EncodedExample = z.infer<typeof exampleSchema>;
export type AdapterAnswer = z.infer<typeof adapterAnswerSchema>;
export type MemoryRequest = z.infer<typeof memoryRequestSchema>;
export type MemoryProgress = z.infer<typeof memoryProgressSchema>;
export type Documents = MemoryRequest["documents"];
export type TokenSources = NonNullable<TokenFrame["sources"]>;
export type CancelRequest = z.infer<typeof cancelRequestSchema>;
export type FinishReason = z.infer<typeof finishReasonSchema>;
export type PromptFrame = z.infer<typeof promptFrameSchema>;
export type TokenFrame = z.infer<typeof tokenFrameSchema>;
export type DoneFrame = z.infer<typeof doneFrameSchema>;
export type ErrorFrame = z.infer<typeof errorFrameSchema>;
export type Frame = z.infer<typeof frameSchema>;

/** Returns null unless `value` is a token frame of plain fields. Ten times as fast as `frameSchema`. */
export function plainTokenFrame(value: unknown): TokenFrame | null {
  const {
    type,
    id: of,
    index,
    tokenId: token,
    logprob = 0,
    baseLogprob = 0,
  } = (value ?? {}) as Record<string, unknown>;
  const isOne =
    type === "token" &&
    typeof of === "string" &&
    idPattern.test(of) &&
    isCount(index) &&
    isCount(token) &&
    Number.isFinite(logprob) &&
    Number.isFinite(baseLogprob);
  if (!isOne) return null;
  for (const name in value as object) if (!plainTokenFields.has(name)) return null;
  return value as TokenFrame;
}

const plainTokenFields = new Set(["type", "id", "index", "tokenId", "logprob", "baseLogprob"]);

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

export function ownAdaptersOf({ adapterHash, sequences }: BatchRequest): string[] {
  const hashes = new Set<string>();
  if (adapterHash) hashes.add(adapterHash);
  for (const { mixture } of sequences) {
    for (const one of mixture?.adapters ?? []) if ("adapterHash" in one) hashes.add(one.adapterHash);
  }
  return [...hashes];
}

/** Hashes of the tenants' memories. */
export function memoriesOf({ sequences }: Pick<BatchRequest, "sequences">): string[] {
  const named = sequences.flatMap(({ memories = [] }) => memories);
  return [...new Set(named.flatMap((one) => ("hash" in one ? one.hash : [])))];
}

/** Whether a backend with this readiness serves batches of the manifest `wanted`. */
export function holds({ manifestHash, manifests = [] }: Readiness, wanted: string): boolean {
  return manifestHash === wanted || manifests.includes(wanted);
}

export function readNumerics(header: string | null | undefined): string | null {
  return header && idPattern.test(header) ? header : null;
}

/** null is an unknown fingerprint, which agrees with every other. */
export function numericsAgree(one: string | null, other: string | null): boolean {
  return one === null || other === null || one === other;
}

export function isLast(frame: Frame): boolean {
  return frame.type === "done" || frame.type === "error";
}

export function errorFrame(id: string, error: ServiceError): ErrorFrame {
  return { type: "error", id, kind: error.kind, message: error.message, retryAfterSeconds: error.retryAfterSeconds };
}
