/**
 * The contract between edge and backend. Headers of calls and answers are `numericsHeader` and those of backend-headers.ts.
 *
 * - POST `/v1/batches`: a `BatchRequest`. Answers `Frame`s as NDJSON, with blank lines as heartbeats. If an adapter or memory of the batch
 * is not stored here, the batch is refused with `adapter_not_found` or `memory_not_found`: PUT that, and send the batch again. A sequence
 * whose memory cannot be read ends in `memory_not_found`, too.
 * - POST `/v1/cancellations`: a `CancelRequest`.
 * - GET `/readyz`: answers a `Readiness`.
 * - POST `/v1/adapters`: fits a tenant's adapter (`AdapterRequest`). The head of the answer comes when fitting begins, its body when it
 * ends (`adapterOutcomeSchema`). Closing the connection cancels it.
 * - PUT, DELETE `/v1/adapters/TENANT/HASH`: PUT stores the bytes of an adapter that another backend fitted.
 * - PUT `/v1/memories/TENANT/HASH`: makes a memory of documents, or the missing part of it. Answers `memoryProgressSchema` lines.
 * - DELETE `/v1/memories/TENANT/HASH`, `/v1/memories/TENANT`: one memory, or all memories of a tenant.
 */
import * as z from "zod";
import { errorKinds, type ServiceError } from "../errors.ts";
import { limits } from "./limits.ts";
import { retrievalSchema, retrievedPassageSchema } from "./retrieval.ts";
import { samplingSchema } from "./sampling.ts";
import { tenantSchema } from "./tenant-name.ts";

/** Version of this contract. A backend refuses calls of another version with `version_mismatch`; the edge then tries the next backend. */
export const contractVersion = 3;

/** After this many milliseconds without a frame, a backend writes a blank line into a batch's answer, to show that its process is alive. */
export const heartbeatMs = 500;

/** Maximum sequences of a batch: as many as one request may have choices. */
export const sequencesPerBatch = 128;

/**
 * Header with a numerics fingerprint (gpu-backend/engine/start-prompt.ts): backends with equal fingerprints compute the same bits. A
 * batch's answer has the answering backend's fingerprint. A batch that continues sequences has that of the backend which began them; a
 * backend with another fingerprint refuses it with `numerics_mismatch`. Older backends and edges ignore an unknown header, but refuse an
 * unknown field.
 */
export const numericsHeader = "x-chameleon-numerics";

const tokenId = z.int().min(0);
/** Pattern of ids. It is strict, because ids become parts of logs, metrics and URLs. */
export const idPattern = /^[A-Za-z0-9_-]{1,64}$/;
const id = z.string().regex(idPattern);
export const hashPattern = /^[0-9a-f]{64}$/;
const hash = z.string().regex(hashPattern);

const share = z.number().min(0).max(1);
/** The mixture of base and adapters that answers (`shared/math/evidence.ts`). */
export const mixtureSchema = z.strictObject({
  /** With `evidence`: the prior weight of the base. Without: the weight that it is served with. */
  base: share,
  /** Adapters of centroids, or of the tenant. All weights, the base's included, add up to 1. */
  adapters: z
    .array(
      z.union([
        z.strictObject({ centroidId: id, weight: share }),
        z.strictObject({ adapterHash: hash, weight: share }),
      ]),
    )
    .max(limits.mixtureAdapters),
  /** How the prompt's own tokens set the weights. Absent: weights are fixed. */
  evidence: z
    .strictObject({
      /** The number of prompt tokens, from the first on, that are evidence. */
      tokens: z.int().min(0),
      /** Ascending token ranges [start, end). If present, only those of the first `tokens` tokens that are in a range are evidence. */
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
  /** Prompts of different tenants share nothing that a backend caches. */
  tenant: tenantSchema,
  promptIds: z.array(tokenId).min(1),
  /**
   * Tokens that the client already has; the sequence resumes after them. The backend decodes them again one by one, so that the following
   * tokens have the bits of the first backend, if the two backends' numerics agree (`numericsHeader`).
   */
  continuedIds: z.array(tokenId),
  /** Maximum tokens of the completion, `continuedIds` included. */
  maxTokens: z.int().min(0),
  /** Parameters that differ from `defaultSampling`. */
  sampling: samplingSchema.partial(),
  /**
   * Milliseconds from arrival within which the sequence must start, or it ends in an error. A tenant's sequences start in the order of
   * their deadlines. A sequence without a deadline counts as due a minute after its arrival.
   */
  deadlineMs: z.int().min(1).optional(),
  /** Maximum milliseconds that a token's frame waits to be sent with others; the first frame and the last never wait. Absent: 0. */
  gatherMs: z.int().min(1).max(heartbeatMs).optional(),
  /** Whether to send a `prompt` frame. */
  promptLogprobs: z.boolean(),
  /** Whether to report each token's logprob under the base, too. */
  compare: z.boolean(),
  /** The mixture that serves in place of the batch's adapter, which would serve at full strength. */
  mixture: mixtureSchema.optional(),
  /** Memories to mix in (`shared/math/memory.ts`). The tokens of `mixture.evidence`, or else the whole prompt, set the memories' weight. */
  memories: z.array(z.strictObject({ hash })).min(1).max(limits.memoriesPerSequence).optional(),
  /** Whether to report passages that made each token likelier. */
  sources: z.boolean().optional(),
  /** Which passages of `memories` to put into the prompt. They are no evidence. Not allowed with `promptLogprobs`. */
  retrieval: retrievalSchema.optional(),
});

export const batchRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  /** For sequences without a mixture: id of the centroid whose adapter serves; null for the base. */
  centroidId: id.nullable(),
  /** Hash of an own adapter that serves instead of the centroid's. All sequences must then be of its tenant. */
  adapterHash: hash.optional(),
  sequences: z.array(sequenceRequestSchema).min(1).max(sequencesPerBatch),
});

const exampleSchema = z
  .strictObject({
    ids: z.array(tokenId).min(2),
    /** Index of the first learnt token. */
    from: z.int().min(1),
  })
  .refine(({ ids, from }) => from < ids.length, "from must be less than the number of ids");
export const adapterRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  tenant: tenantSchema,
  examples: z.array(exampleSchema).min(2).max(limits.adapterExamples),
  /** Examples to measure the gain on. Absent: some of `examples` are held out, and the final adapter is then fitted to all of them. */
  validation: z.array(exampleSchema).min(2).max(limits.adapterExamples).optional(),
});
const gain = z.object({ nats: z.number(), ci95: z.tuple([z.number(), z.number()]), tokens: z.int() });
export const adapterAnswerSchema = z.object({
  /** The adapter's hash. It depends on the tenant, so that equal adapters of two tenants have different hashes. */
  hash,
  /** Gain over the static adapter on held-out examples; null if only one was held out. */
  gain: gain.nullable(),
  /** Whether the gain's 95% interval is above zero. Otherwise the adapter changes nothing. */
  kept: z.boolean(),
  losses: z.array(z.object({ step: z.int(), train: z.number(), heldOut: z.number() })), // in nats a learnt token
  tokens: z.int(),
  /** The adapter's bytes in base64, to be stored on other backends. */
  file: z.string(),
  timings: z.object({ hiddenMs: z.number(), fitMs: z.number() }),
});

/** The body of PUT /v1/memories/TENANT/HASH. */
export const memoryRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  /** The memory's documents. HASH in the path is their `memoryHash`. */
  documents: z
    .array(z.strictObject({ name: z.string().min(1).max(limits.documentNameCharacters), text: z.string().min(1) }))
    .min(1)
    .max(limits.documents),
});
/** A line of the answer to PUT /v1/memories/TENANT/HASH: `progress` at least every `heartbeatMs`, and last `ready` or `error`. */
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
  /** With `retrieval`, in the frame of index 0: how many prompt tokens the passages and the text around them take. */
  retrievedTokens: z.int().min(0).optional(),
  /** Passages that made the token likelier. Present with the request's `sources`, if the sequence has memories. */
  sources: z
    .object({
      /** Part of the token's probability that came from memories. */
      share: z.number(),
      /** Passages, the one with the largest share first. `share`: the part of the token's probability that came from the passage. */
      passages: z.array(
        z.object({
          /** Index in the request's `memories`. */
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
  /** null if the base serves. `cache`: "generated" if the adapter was generated for this batch. */
  adapter: z.object({ hash, cache: z.enum(["hit", "generated"]), scale: z.number() }).nullable(),
  /**
   * The served mixture, with its adapters in the request's order. `evidence.nats` is a lower bound on the mixture's gain over the base on
   * the prompt's tokens, in nats a token. `evidence` is null if the weights were fixed.
   */
  mixture: z
    .object({
      base: z.number(),
      adapters: z.array(z.object({ hash, weight: z.number() })),
      evidence: z.object({ nats: z.number(), tokens: z.int() }).nullable(),
    })
    .optional(),
  /** The memories in the request's order. `brake`: factor of a memory's weight that the prompt chose; at 0 the memory changes nothing. */
  memories: z.array(z.object({ hash, brake: z.number() })).optional(),
  /** With `retrieval`: the passages in the prompt, nearest first. */
  retrieved: z.array(retrievedPassageSchema).optional(),
  /** Number of prompt tokens, those of retrieved passages included. */
  promptTokens: z.int(),
  completionTokens: z.int(),
  /** Number of prompt tokens that were found in the prefix cache. */
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
/** Body of the answer to POST `/v1/adapters`. The `id` of its error frame has no meaning. */
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
  /** Hash of the manifest that is served by default. */
  manifestHash: hash,
  /** Hashes of all manifests whose batches the backend accepts: two during a roll-out. */
  manifests: z.array(hash).optional(),
  /** Numerics fingerprint of the set with `manifestHash`; absent if it was not measured. */
  numerics: id.optional(),
  /** The device that serves. `adapter`: name of the GPU (graphics adapter) tested, or null. `found`: what the self-test found, in words. */
  device: z
    .object({
      ...{ name: z.enum(["cpu", "webgpu"]), adapter: z.string().nullable(), driver: z.string().nullable() },
      ...{ selfTest: z.enum(["passed", "refused", "none"]), found: z.string() },
    })
    .optional()
    // The edge reads no device, so a device that it does not know makes no backend unready.
    .catch(undefined),
  /** Why own adapters are kept in memory and cannot be written to disk, such as `ENOSPC`; null if they can be written. */
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

/** Returns `value` if it is a token frame of plain fields, else null. Checking any other frame by `frameSchema` takes ten times as long. */
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

/** Hashes of own adapters that a batch needs, each once. */
export function ownAdaptersOf({ adapterHash, sequences }: BatchRequest): string[] {
  const hashes = new Set<string>();
  if (adapterHash) hashes.add(adapterHash);
  for (const { mixture } of sequences) {
    for (const one of mixture?.adapters ?? []) if ("adapterHash" in one) hashes.add(one.adapterHash);
  }
  return [...hashes];
}

/** Hashes of memories that a batch needs, each once. */
export function memoriesOf({ sequences }: BatchRequest): string[] {
  return [...new Set(sequences.flatMap(({ memories = [] }) => memories.map((one) => one.hash)))];
}

/** Whether a backend with this readiness serves batches of the manifest `wanted`. */
export function holds({ manifestHash, manifests = [] }: Readiness, wanted: string): boolean {
  return manifestHash === wanted || manifests.includes(wanted);
}

/** Returns null if the fingerprint is absent or not valid. */
export function readNumerics(header: string | null | undefined): string | null {
  return header && idPattern.test(header) ? header : null;
}

/** Whether a sequence can move between backends of these numerics fingerprints. null is an unknown fingerprint and agrees with all. */
export function numericsAgree(one: string | null, other: string | null): boolean {
  return one === null || other === null || one === other;
}

export function isLast(frame: Frame): boolean {
  return frame.type === "done" || frame.type === "error";
}

export function errorFrame(id: string, error: ServiceError): ErrorFrame {
  return { type: "error", id, kind: error.kind, message: error.message, retryAfterSeconds: error.retryAfterSeconds };
}
