/** Answers of the public API, in OpenAI's shapes. The edge imports only types. */
import * as z from "zod";
import { toolCallDeltaSchema, toolCallSchema } from "./called-functions.ts";
import { citedPassagesSchema, sourcedTokenSchema } from "./cited-passages.ts";

export const unixSeconds = z.int().describe("Unix time in seconds");
const milliseconds = z.number().min(0);
const hash = z.string().regex(/^[0-9a-f]{64}$/);
const logprob = z.number().describe("Natural logarithm of the probability");

const gainSchema = z
  .object({
    nats: z.number(),
    ci95: z.tuple([z.number(), z.number()]).describe("95% interval"),
    tokens: z.int().describe("Measured on so many"),
  })
  .describe("Over the base on held-out text, in nats a token");

const expertSchema = z.object({
  id: z.string().describe("`base`, `static`, a centroid, or an adapter of your own"),
  weight: z.number().min(0).max(1).describe("Of its logits in the answer's; all weights add up to 1 but for rounding"),
  hash: hash.optional().describe("Of an adapter"),
});
const evidenceSchema = z
  .object({
    nats: z.number().describe("Mean gain over the base, in nats a token; positive is better than the base"),
    tokens: z.int().describe("Tokens of the prompt that were looked at: up to 15, spread over the prompt"),
  })
  .describe("What the experts gained on the prompt's own tokens, each under the weights by the tokens before it");

export const timingsSchema = z
  .object({
    tokenize: milliseconds,
    assign: milliseconds,
    queue: milliseconds,
    adapter: milliseconds,
    prefill: milliseconds,
    decode: milliseconds,
  })
  .describe("Milliseconds of each phase; the same names as in the Server-Timing header");

const comparedTokenSchema = z.object({ token: z.string(), logprob, base_logprob: logprob });

export const chameleonBlockSchema = z
  .object({
    centroid: z
      .string()
      .describe("The nearest centroid; where the request names adapters, the first of those that serve"),
    similarity: z.number().describe("Cosine of prompt embedding and centroid"),
    mode: z
      .enum(["evidence", "fixed", "adapted", "off", "auto-off"])
      .describe(
        "`evidence`: a mixture, weighed by the prompt; `fixed`: one of given weights; `adapted`: one adapter at full strength; `off`: the request wanted the base; `auto-off`: the adapter did not help when it was measured, so the static adapter answers, or the base where there is none",
      ),
    seed: z.int().describe("Of the request, or drawn for it: with it, the same request has the same answer"),
    experts: z
      .array(expertSchema)
      .describe(
        "What the answer's logits are a weighted mean of; an expert that the prompt left out weighs 0. Empty where a mixture was never weighed: with `max_tokens` 0 and no scores",
      ),
    evidence: evidenceSchema.nullable().describe("null where the prompt did not decide"),
    adapter: z
      .object({
        hash,
        cache: z.enum(["hit", "generated"]),
        scale: z.number(),
      })
      .nullable()
      .describe("The adapter that serves, the nearest of several; null for the base alone"),
    held_out_gain: gainSchema
      .nullable()
      .describe("Of the adapter of `centroid`, on held-out text; null where none was measured or it does not serve"),
    memories: z
      .array(
        z.object({
          id: z
            .string()
            .describe("The adapter of your own whose documents it holds, or the centroid of its public text"),
          brake: z.number().min(0).describe("How much the memory counts, as the prompt chose; 0: not at all"),
        }),
      )
      .optional()
      .describe("The memories that the answer read, where it read any"),
    retrieved: citedPassagesSchema.optional(),
    sources: z
      .array(sourcedTokenSchema)
      .optional()
      .describe("With `sources`, where the answer read a memory. In a stream every chunk has its own tokens"),
    timings: timingsSchema,
    compare: z
      .object({
        tokens: z.array(comparedTokenSchema),
        mean_difference: z
          .number()
          .nullable()
          .optional()
          .describe("Mean of logprob − base_logprob. In sampled text it is a divergence, so no gain"),
      })
      .optional()
      .describe("With `compare`. In a stream each chunk has its own tokens, and a choice's last one the mean"),
  })
  .describe(
    "What answered one choice, where the request has an object `chameleon`; in a stream in the choice's last chunk. Rounded: milliseconds to tenths, other numbers to four decimals",
  );
const partialBlock = chameleonBlockSchema.partial().optional();

export const usageSchema = z.object({
  prompt_tokens: z.int().describe("Each prompt once, whatever n is, with its passages of `retrieve`"),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z
    .object({ cached_tokens: z.int() })
    .optional()
    .describe("Where some of the prompt need not be computed"),
});

function answer<O extends string, C extends z.ZodType>(object: O, choice: C) {
  return z.object({
    id: z.string(),
    object: z.literal(object),
    created: unixSeconds,
    model: z.string(),
    system_fingerprint: z.string().describe("Changes when the artifacts do, and so may the text of a seed"),
    choices: z.array(choice),
    usage: usageSchema.nullable().optional(),
  });
}
const finishReason = z.enum(["stop", "length"]);
const chatFinishReason = z.enum(["stop", "length", "tool_calls"]);

const completionLogprobsSchema = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(logprob.nullable()).describe("null for the first token of an echoed prompt"),
  top_logprobs: z.array(z.record(z.string(), logprob)),
  text_offset: z.array(z.int()).describe("Where each token starts in `text`, in Unicode code points"),
});
const promptLogprobsSchema = z
  .array(z.record(z.string(), z.object({ logprob, rank: z.int().nullable(), decoded_token: z.string() })).nullable())
  .describe("By token id: the likeliest, and the prompt's own, whose rank may be null. null for the first token");
const completionChoice = z.object({
  index: z.int(),
  text: z.string(),
  logprobs: completionLogprobsSchema.nullable(),
  finish_reason: finishReason.nullable().describe("null in a chunk that is not the choice's last"),
  prompt_logprobs: promptLogprobsSchema.optional(),
  chameleon: partialBlock,
});
export const completionResponseSchema = answer("text_completion", completionChoice).describe(
  "A whole completion, or a chunk of one",
);

const chatAlternative = z.object({
  token: z.string(),
  logprob,
  bytes: z.array(z.int().min(0).max(255)).describe("UTF-8; of part of a character, its bytes"),
});
export const chatTokenSchema = chatAlternative.extend({ top_logprobs: z.array(chatAlternative) });
const chatLogprobsSchema = z.object({ content: z.array(chatTokenSchema).nullable(), refusal: z.null() });
const chatChoice = z.object({
  index: z.int(),
  message: z.object({
    role: z.literal("assistant"),
    content: z.string().nullable().describe("null where there are calls alone"),
    refusal: z.null(),
    tool_calls: z.array(toolCallSchema).optional(),
  }),
  logprobs: chatLogprobsSchema.nullable().describe("Of every token, those of calls too"),
  finish_reason: chatFinishReason.describe("`tool_calls`: the answer ends in a whole call"),
  chameleon: partialBlock,
});
export const chatResponseSchema = answer("chat.completion", chatChoice).extend({
  prompt_logprobs: promptLogprobsSchema.optional(),
});
const chatChunkChoice = z.object({
  index: z.int(),
  delta: z.object({
    role: z.literal("assistant").optional(),
    content: z.string().nullable().optional(),
    tool_calls: z.array(toolCallDeltaSchema).optional(),
  }),
  logprobs: chatLogprobsSchema.nullable(),
  finish_reason: chatFinishReason.nullable(),
  chameleon: partialBlock,
});
export const chatChunkSchema = answer("chat.completion.chunk", chatChunkChoice);

export const embeddingsResponseSchema = z.object({
  object: z.literal("list"),
  data: z.array(
    z.object({
      object: z.literal("embedding"),
      index: z.int(),
      embedding: z.union([z.array(z.number()), z.string().describe("Base64 of little-endian float32")]),
    }),
  ),
  model: z.string(),
  usage: z.object({ prompt_tokens: z.int(), total_tokens: z.int() }),
});

export const modelSchema = z.object({
  id: z.string(),
  object: z.literal("model"),
  created: unixSeconds.describe("Unix time in seconds; 0 but for your own adapters, as artifacts carry no date"),
  owned_by: z.string(),
  base: z.string().describe("The model that it adapts"),
  context_length: z.int().describe("Tokens of prompt and answer together"),
  manifest: hash.describe("SHA-256 of the manifest that it is of"),
  alias_of: z.string().optional().describe("Of an alias: the model that answers, which answers name"),
});
export const modelListSchema = z.object({ object: z.literal("list"), data: z.array(modelSchema) });

const rankedSchema = z.object({ centroid: z.string(), similarity: z.number() });
export const assignResponseSchema = z.object({
  object: z.literal("list"),
  data: z.array(
    z.object({
      index: z.int(),
      tokens: z.int().describe("Its first tokens, by which it is assigned; what comes after them is not read"),
      centroid: z.string(),
      similarity: z.number().describe("Cosine of prompt embedding and centroid"),
      mode: chameleonBlockSchema.shape.mode,
      experts: z
        .array(z.string())
        .describe("What would answer; with `mode` `evidence`, the prompt decides with which weights"),
      runners_up: z.array(rankedSchema),
    }),
  ),
});

export const centroidListSchema = z.object({
  object: z.literal("list"),
  manifest: hash.describe("SHA-256 of the manifest that is served"),
  data: z.array(
    z.object({
      id: z.string(),
      object: z.literal("centroid"),
      model: z.string(),
      label: z.array(z.string()).describe("Characteristic tokens, most characteristic first"),
      size: z.int().describe("Training windows that fell to it"),
      position: z.tuple([z.number(), z.number()]).describe("For maps: the first two principal components"),
      gain: gainSchema.nullable(),
      scale: z.number(),
      auto_off: z.boolean().describe("The adapter did not help when it was measured, so the base is served"),
      memory: z
        .object({ tokens: z.int(), gain: gainSchema.nullable() })
        .nullable()
        .describe("The public text that `auto` reads beside the adapter, and its gain over the adapter"),
      adapter: z.object({ hash: hash.describe("As in a completion's `chameleon.adapter.hash`") }),
    }),
  ),
});

const memorySchema = z
  .object({
    status: z
      .enum(["queued", "building", "ready", "failed"])
      .describe(
        "Of the latest change of its documents. `queued`: no backend takes it now, it is tried again; `failed`: its documents were dropped",
      ),
    error: z.string().nullable().describe("Why it is queued or failed"),
    hash: hash.nullable().describe("Of the documents that requests use now; null where there are none yet"),
    documents: z.int(),
    tokens: z.int(),
    bytes: z.int(),
    built_tokens: z.int().describe("Of `tokens`, those that are done"),
  })
  .describe("Documents that answers can quote; of a change under way, the documents after it");

export const adapterSchema = z
  .object({
    id: z.string(),
    object: z.literal("adapter"),
    name: z.string(),
    model: z.string().describe("What requests name"),
    hash: hash.nullable().describe("Of what was fitted to examples; null where there were none"),
    created: unixSeconds,
    examples: z.int(),
    tokens: z.int().describe("Of the examples"),
    labels: z
      .array(z.string())
      .nullable()
      .describe("The answers of its examples, if these are few: `/v1/classify` knows them"),
    gain: gainSchema
      .nullable()
      .describe("Over the static adapter on held-out examples, in nats a learnt token; null if it is the base"),
    adapts: z.boolean().describe("Whether `model` serves more than the base"),
    message: z.string().nullable().describe("Why it is the base, and what is lost as it was made with `keep: false`"),
    keep: z.boolean().describe("Whether its documents and examples are kept"),
    centroid: z
      .object({ nearest: z.string(), similarity: z.number() })
      .nullable()
      .describe("The trained centroid nearest to its text; null once other artifacts are served"),
    memory: memorySchema.nullable(),
    documents: z
      .array(z.object({ name: z.string(), tokens: z.int(), bytes: z.int() }))
      .optional()
      .describe("The memory's documents, where one adapter is asked for that keeps them"),
    outdated: z.boolean().describe("It answers with the artifacts that it was made for, which others have replaced"),
    refit: z
      .object({ status: z.enum(["waiting", "failed"]), error: z.string().nullable() })
      .nullable()
      .describe(
        "How it is made again for the served artifacts, in the background; null where it is of these. `failed`: it cannot be, and answers as long as its own artifacts are kept",
      ),
  })
  .describe("An adapter of the tenant's own");
const pendingBackends = z
  .int()
  .min(0)
  .describe("Backends that have not confirmed the deletion; they are asked until they do");
export const adapterListSchema = z.object({
  object: z.literal("list"),
  data: z.array(adapterSchema),
  deleting: z
    .array(z.object({ id: z.string(), deleted: unixSeconds, pending_backends: pendingBackends }))
    .describe("Deleted adapters of which a backend may still have a copy"),
});
export const adapterDeletedSchema = z.object({
  id: z.string(),
  object: z.literal("adapter"),
  deleted: z.literal(true),
  pending_backends: pendingBackends,
});

const day = z.string().regex(/^\d{4}-\d{2}-\d{2}$/);
const count = z.int().min(0);
const bound = z.number().nullable().describe("null is none");
export const usageReportSchema = z.object({
  object: z.literal("list"),
  tenant: z.string(),
  from: day,
  to: day,
  data: z.array(
    z.object({
      day,
      model: z.string(),
      centroid: z.string().nullable().describe("Whose adapter served; null is none"),
      requests: count,
      prompt_tokens: count,
      completion_tokens: count,
    }),
  ),
  total: z.object({ requests: count, prompt_tokens: count, completion_tokens: count, total_tokens: count }),
  limits: z.object({
    requests_per_minute: bound,
    tokens_per_minute: bound,
    concurrent_requests: bound,
    tokens_per_month: bound,
  }),
});

export const healthSchema = z.object({
  status: z.literal("ok"),
  version: z.string().optional().describe("Of the deployed Worker; absent where it was not deployed as a version"),
});
export const readySchema = z.object({ status: z.literal("ready"), manifest: hash });

export const errorSchema = z.object({
  error: z.object({
    message: z.string().describe("Names the limit and the value that broke it"),
    type: z.string(),
    param: z.string().nullable().describe("The request's field at fault"),
    code: z.string().nullable(),
  }),
});

export type Timings = z.infer<typeof timingsSchema>;
export type SourcedToken = z.infer<typeof sourcedTokenSchema>;
export type ComparedToken = z.infer<typeof comparedTokenSchema>;
export type ChameleonBlock = z.infer<typeof chameleonBlockSchema>;
export type Usage = z.infer<typeof usageSchema>;
export type CompletionLogprobs = z.infer<typeof completionLogprobsSchema>;
export type PromptLogprobs = z.infer<typeof promptLogprobsSchema>;
export type CompletionChoice = z.infer<typeof completionChoice>;
export type CompletionResponse = z.infer<typeof completionResponseSchema>;
export type ChatToken = z.infer<typeof chatTokenSchema>;
export type ChatLogprobs = z.infer<typeof chatLogprobsSchema>;
export type ChatChoice = z.infer<typeof chatChoice>;
export type ChatChunkChoice = z.infer<typeof chatChunkChoice>;
export type ChatResponse = z.infer<typeof chatResponseSchema>;
export type ChatChunk = z.infer<typeof chatChunkSchema>;
export type EmbeddingsResponse = z.infer<typeof embeddingsResponseSchema>;
export type Model = z.infer<typeof modelSchema>;
export type ModelList = z.infer<typeof modelListSchema>;
export type AssignResponse = z.infer<typeof assignResponseSchema>;
export type CentroidList = z.infer<typeof centroidListSchema>;
export type Adapter = z.infer<typeof adapterSchema>;
export type AdapterList = z.infer<typeof adapterListSchema>;
export type AdapterDeleted = z.infer<typeof adapterDeletedSchema>;
export type UsageReport = z.infer<typeof usageReportSchema>;
export type Health = z.infer<typeof healthSchema>;
export type Ready = z.infer<typeof readySchema>;
