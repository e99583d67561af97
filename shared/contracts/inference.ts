/**
 * The contract between edge and backend: `POST /v1/batches` takes a `BatchRequest` and answers NDJSON `Frame`s and blank lines,
 * `POST /v1/cancellations` takes a `CancelRequest`, `GET /readyz` answers a `Readiness`. `POST /v1/adapters` makes a
 * tenant's adapter of an `AdapterRequest`: the head of its answer comes when the work begins, an `adapterOutcomeSchema` when it ends,
 * and a caller that leaves ends it; `/v1/adapters/TENANT/HASH` takes PUT for one that
 * another backend made, and DELETE. A batch whose adapter is not here is refused with
 * `adapter_not_found`: PUT it, and send the batch again. PUT `/v1/memories/TENANT/HASH` makes a memory of documents, or what of it is
 * missing, and answers `memoryProgressSchema` lines; DELETE takes it, and `/v1/memories/TENANT` all of a tenant's. A batch whose
 * memory is not here is refused with `memory_not_found`; so ends a sequence whose memory cannot be read. The header `numericsHeader` travels with batches,
 * `nameHeader` with every answer and some calls, `loadHeader` with every answer (backend-headers.ts). Not here: anything a public client sees.
 */
import * as z from "zod";
import { errorKinds, type ServiceError } from "../errors.ts";
import { limits } from "./limits.ts";
import { retrievalSchema, retrievedPassageSchema } from "./retrieval.ts";
import { samplingSchema } from "./sampling.ts";
import { tenantSchema } from "./tenant-name.ts";

/** Both sides must have the same one: a backend refuses calls of another with `version_mismatch`, and the edge asks the next. */
export const contractVersion = 3;

/**
 * Interval of heartbeats in an answer to a batch, in milliseconds: the backend writes a blank line after each interval in which it
 * wrote no frame. They show that the backend's process is alive; the supervisor ends an engine that hangs.
 */
export const heartbeatMs = 500;

/** Maximum sequences of one micro-batch: as many as one request may have choices. */
export const sequencesPerBatch = 128;

/**
 * The numerics fingerprint (gpu-backend/engine/start-prompt.ts): backends of the same one compute the same bits. The answer to a
 * batch carries the backend's own. A batch carries that of the backend whose tokens its sequences continue, and is
 * refused with `numerics_mismatch` by a backend of another. It is a header because a backend or edge that does not know
 * it must ignore it, and the batch's schema is strict.
 */
export const numericsHeader = "x-chameleon-numerics";

const tokenId = z.int().min(0);
/** Strict, because ids travel into logs, metrics and URLs. */
export const idPattern = /^[A-Za-z0-9_-]{1,64}$/;
const id = z.string().regex(idPattern);
export const hashPattern = /^[0-9a-f]{64}$/;
const hash = z.string().regex(hashPattern);

const share = z.number().min(0).max(1);
/** An answer's distribution as a mixture of the base and adapters (`shared/math/evidence.ts`). */
export const mixtureSchema = z.strictObject({
  /** Weight of the base: its prior where the prompt's evidence decides, else as it is served. */
  base: share,
  /** Adapters beside the base: a centroid's, or one of the tenant's own. With the base the weights add up to 1. */
  adapters: z
    .array(
      z.union([
        z.strictObject({ centroidId: id, weight: share }),
        z.strictObject({ adapterHash: hash, weight: share }),
      ]),
    )
    .max(limits.mixtureAdapters),
  /** How the prompt decides; absent: the weights are fixed. */
  evidence: z
    .strictObject({
      /** The first so many prompt tokens are evidence. */
      tokens: z.int().min(0),
      /** Token ranges [start, end), rising: of the first `tokens` only these are evidence. Absent: all of them. */
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
  /** Salts whatever the backend keeps of the prompt. */
  tenant: tenantSchema,
  promptIds: z.array(tokenId).min(1),
  /**
   * Tokens already sent to the client: a resumed sequence goes on after them, at the same positions and bit for bit,
   * because the backend computes them one by one again, as when they were sampled, with the same numerics (`numericsHeader`).
   */
  continuedIds: z.array(tokenId),
  /** Counts `continuedIds` too. */
  maxTokens: z.int().min(0),
  /** What differs from `defaultSampling`. */
  sampling: samplingSchema.partial(),
  /**
   * Milliseconds from its arrival within which it must start, else it ends in an error. Of a tenant's sequences the one
   * that is due first goes first; one without a deadline stands where one of a minute would.
   */
  deadlineMs: z.int().min(1).optional(),
  /**
   * Milliseconds for which a token may wait for those that follow, to travel with them; its first never does, and its end
   * takes along what waits. Absent: none waits.
   */
  gatherMs: z.int().min(1).max(heartbeatMs).optional(),
  /** Ask for one `prompt` frame with the logprob of each prompt token. */
  promptLogprobs: z.boolean(),
  /** Ask for each token's logprob without the adapter, too. */
  compare: z.boolean(),
  /** Serve this mixture rather than the batch's adapter alone. */
  mixture: mixtureSchema.optional(),
  /**
   * Its next tokens are mixed with what these say (`shared/math/memory.ts`). How much they count is chosen by the same prompt tokens
   * as the mixture's weights; without `mixture.evidence`, by all tokens of the prompt.
   */
  memories: z.array(z.strictObject({ hash })).min(1).max(limits.memoriesPerSequence).optional(),
  /** Ask for the passages behind each token. */
  sources: z.boolean().optional(),
  /** Put passages of `memories` into the prompt. Not with `promptLogprobs`. Evidence stays with the prompt's own tokens. */
  retrieval: retrievalSchema.optional(),
});

export const batchRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  /** Whose adapter serves sequences without a mixture; null: the base. Mixtures name theirs; then it is the first one's and only routes. */
  centroidId: id.nullable(),
  /** An adapter of the tenant's own instead of a centroid's; then all sequences are that tenant's. */
  adapterHash: hash.optional(),
  sequences: z.array(sequenceRequestSchema).min(1).max(sequencesPerBatch),
});

const exampleSchema = z
  .strictObject({
    ids: z.array(tokenId).min(2),
    /** The tokens from this index on are learnt. */
    from: z.int().min(1),
  })
  .refine(({ ids, from }) => from < ids.length, "from must be less than the number of ids");
export const adapterRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  tenant: tenantSchema,
  examples: z.array(exampleSchema).min(2).max(limits.adapterExamples),
  /** The gain is measured on these; absent: on some of the examples, which then make the adapter all the same. */
  validation: z.array(exampleSchema).min(2).max(limits.adapterExamples).optional(),
});
const gain = z.object({ nats: z.number(), ci95: z.tuple([z.number(), z.number()]), tokens: z.int() });
export const adapterAnswerSchema = z.object({
  /** Names the adapter among the tenant's; another tenant's equal adapter has another. */
  hash,
  /** Over the static adapter, on examples that did not make it; null where a single one was held out. */
  gain: gain.nullable(),
  /** Whether the gain's interval lies above zero. Else the adapter changes nothing. */
  kept: z.boolean(),
  /** Nats a learnt token, of the examples that are fitted and of those that are held out. */
  losses: z.array(z.object({ step: z.int(), train: z.number(), heldOut: z.number() })),
  tokens: z.int(),
  /** The adapter's bytes in base64, for the other backends. */
  file: z.string(),
  timings: z.object({ hiddenMs: z.number(), fitMs: z.number() }),
});

/** The body of PUT /v1/memories/TENANT/HASH. */
export const memoryRequestSchema = z.strictObject({
  version: z.literal(contractVersion),
  manifestHash: hash,
  /** The hash in the path is `memoryHash` of these, in this order. */
  documents: z
    .array(z.strictObject({ name: z.string().min(1).max(limits.documentNameCharacters), text: z.string().min(1) }))
    .min(1)
    .max(limits.documents),
});
/** A line of its answer: progress at least every `heartbeatMs`, then one that is ready or an error. */
export const memoryProgressSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("progress"), tokens: z.int(), totalTokens: z.int() }),
  z.object({
    type: z.literal("ready"),
    tokens: z.int(),
    /** Keys on disk, in bytes. */
    bytes: z.int(),
    /** Tokens whose keys had to be computed; 0 if the memory was here already. */
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
  /** One per prompt token; the first has no context, so null. */
  logprobs: z.array(z.number().nullable()),
  alternatives: z.array(alternatives),
  /** Logprobs without the adapter, where `compare` asked for them. */
  baseLogprobs: z.array(z.number().nullable()).optional(),
});
export const tokenFrameSchema = z.object({
  type: z.literal("token"),
  id,
  /** Position in the completion, `continuedIds` counted. */
  index: z.int().min(0),
  tokenId,
  logprob: z.number().optional(),
  alternatives: alternatives.optional(),
  baseLogprob: z.number().optional(),
  /** In the token of index 0, where passages were asked for: the tokens that they take in the prompt, with those around them. */
  retrievedTokens: z.int().min(0).optional(),
  /** Where `sources` asked for them and the sequence has memories. */
  sources: z
    .object({
      /** Part of the token's own probability that came from memories. */
      share: z.number(),
      /** The passages that spoke for the token, the most of that part first; `share` is of the token's probability, too. */
      passages: z.array(
        z.object({
          /** Index in the request's `memories`. */
          memory: z.int(),
          /** Name of the document, and bytes [start, end) of its text: some words before the token, and the token. */
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
  /** null for the base. `cache` says whether the adapter was there or was made for this micro-batch. */
  adapter: z.object({ hash, cache: z.enum(["hit", "generated"]), scale: z.number() }).nullable(),
  /**
   * The answer's mixture, if it had one: the weights of the base and of each adapter, in the request's order, with hashes; and if
   * evidence set the weights, a lower bound on the gain on the prompt's tokens.
   */
  mixture: z
    .object({
      base: z.number(),
      adapters: z.array(z.object({ hash, weight: z.number() })),
      evidence: z.object({ nats: z.number(), tokens: z.int() }).nullable(),
    })
    .optional(),
  /** The memories in the order of the request, with the brake that the prompt chose (its mean; 0: none of it is used). */
  memories: z.array(z.object({ hash, brake: z.number() })).optional(),
  /** The passages in the prompt, nearest first, where any were asked for. */
  retrieved: z.array(retrievedPassageSchema).optional(),
  /** With the tokens of passages. */
  promptTokens: z.int(),
  completionTokens: z.int(),
  /** Prompt tokens that need not be computed, as the backend had their keys and values. */
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
/** The body of an answer whose head says that making the adapter has begun; the frame's id means nothing. */
export const adapterOutcomeSchema = z.union([adapterAnswerSchema, errorFrameSchema]);
/** Each sequence gets frames in order: at most one `prompt`, any number of `token`, then one `done` or one `error`. */
export const frameSchema = z.discriminatedUnion("type", [
  promptFrameSchema,
  tokenFrameSchema,
  doneFrameSchema,
  errorFrameSchema,
]);

/** What `GET /readyz` answers, with 200, once a real token was generated; until then it is the error envelope. */
export const readinessSchema = z.object({
  status: z.literal("ready"),
  model: z.string(),
  servedAs: z.string(),
  /** Of the artifacts that are served first of all. */
  manifestHash: hash,
  /** Of all that batches may name: more than one while a roll-out goes on. */
  manifests: z.array(hash).optional(),
  /** The numerics fingerprint under `manifestHash`; absent from a backend that measures none. */
  numerics: id.optional(),
  /** Why own adapters are kept in memory, such as `ENOSPC`; null while the disk takes them. The backend serves all the same. */
  diskFault: z.string().nullable().optional(),
});

export type Readiness = z.infer<typeof readinessSchema>;
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

/**
 * `value` where it is a token frame without alternatives, as nearly all are: what `frameSchema` would return, in a tenth of
 * its time. null for anything else, right or wrong, which is the schema's to judge.
 */
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

/** Hashes of the tenant's own adapters that a batch names, each once; a backend may lack them. */
export function ownAdaptersOf({ adapterHash, sequences }: BatchRequest): string[] {
  const hashes = new Set<string>();
  if (adapterHash) hashes.add(adapterHash);
  for (const { mixture } of sequences) {
    for (const one of mixture?.adapters ?? []) if ("adapterHash" in one) hashes.add(one.adapterHash);
  }
  return [...hashes];
}

/** Hashes of the tenant's own memories that a batch names, each once; a backend may lack them. */
export function memoriesOf({ sequences }: BatchRequest): string[] {
  return [...new Set(sequences.flatMap(({ memories = [] }) => memories.map((one) => one.hash)))];
}

/** Whether a backend that says so serves batches of a manifest. */
export function holds({ manifestHash, manifests = [] }: Readiness, wanted: string): boolean {
  return manifestHash === wanted || manifests.includes(wanted);
}

/** A numerics fingerprint as a header tells it; null where there is none, or something that is none. */
export function readNumerics(header: string | null | undefined): string | null {
  return header && idPattern.test(header) ? header : null;
}

/** Whether two numerics fingerprints allow a sequence to go from one to the other. One that is unknown (null) allows all. */
export function numericsAgree(one: string | null, other: string | null): boolean {
  return one === null || other === null || one === other;
}

/** Whether a sequence ends with this frame. */
export function isLast(frame: Frame): boolean {
  return frame.type === "done" || frame.type === "error";
}

/** The error frame of one sequence. */
export function errorFrame(id: string, error: ServiceError): ErrorFrame {
  return { type: "error", id, kind: error.kind, message: error.message, retryAfterSeconds: error.retryAfterSeconds };
}
