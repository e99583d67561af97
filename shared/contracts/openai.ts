/**
 * The public wire: OpenAI's completion schemas as far as they are served here, `top_k` and `min_p` as vLLM has them, and
 * the `chameleon` extension.
 * Unknown fields are ignored, so that other clients' extras pass.
 * Not here: checks that need the model (vocabulary, context), and the way from a request to sequences.
 */
import { z } from "zod";
import { absentAs, type Prompt, readLogitBias, readPromptList, readStop } from "./fields.ts";
import { limits } from "./limits.ts";

/** `auto` takes the nearest centroid, `off` serves the base, anything else names a centroid. */
const adapterSchema = z.string().min(1).max(64);
const chameleonRequestSchema = z.object({
  adapter: absentAs(adapterSchema, undefined),
  compare: absentAs(z.boolean(), false),
});

const penalty = z.number().min(-limits.penaltyMagnitude).max(limits.penaltyMagnitude);

export const completionRequestSchema = z
  .object({
    /** Absent: the served model with the nearest centroid. */
    model: absentAs(z.string(), undefined),
    /** Absent: null, the beginning of a new document. */
    prompt: z.unknown().optional().transform(readPrompts),
    max_tokens: absentAs(z.int().min(0), 16),
    temperature: absentAs(z.number().min(0).max(limits.temperature), 1),
    top_p: absentAs(z.number().min(0).max(1), 1),
    /** -1 and 0 are all tokens. */
    top_k: absentAs(z.int().min(-1), 0).transform((count) => Math.max(count, 0)),
    min_p: absentAs(z.number().min(0).max(1), 0),
    n: absentAs(z.int().min(1).max(limits.choicesPerPrompt), 1),
    stop: z.unknown().optional().transform(readStop),
    seed: absentAs(z.int(), null),
    logprobs: absentAs(z.int().min(0).max(limits.completionLogprobs), null),
    echo: absentAs(z.boolean(), false),
    presence_penalty: absentAs(penalty, 0),
    frequency_penalty: absentAs(penalty, 0),
    logit_bias: absentAs(z.record(z.string(), z.number()), {}).transform(readLogitBias),
    stream: absentAs(z.boolean(), false),
    stream_options: absentAs(z.object({ include_usage: absentAs(z.boolean(), false) }), null),
    user: absentAs(z.string(), null),
    best_of: absentAs(z.int(), null),
    suffix: absentAs(z.string(), null),
    chameleon: absentAs(chameleonRequestSchema, { adapter: undefined, compare: false }),
  })
  .superRefine((request, context) => {
    const refuse = (param: string, message: string) =>
      context.addIssue({ code: "custom", path: [param], message, input: request });
    const choices = (request.prompt?.length ?? 1) * request.n;
    if (choices > limits.choicesPerRequest) {
      refuse("n", `prompts × n is ${choices}, the maximum is ${limits.choicesPerRequest}`);
    }
    if (request.stream_options && !request.stream) refuse("stream_options", "stream_options needs stream: true");
    if (request.best_of !== null && request.best_of !== 1 && request.best_of !== request.n) {
      refuse("best_of", `best_of is ${request.best_of}; only best_of equal to n (${request.n}) is supported`);
    }
    if (request.suffix) refuse("suffix", "suffix is not supported: the model only continues text");
  });

export const assignRequestSchema = z.object({
  model: absentAs(z.string(), undefined),
  /** One text, several, or their token ids, as a completion's prompt. */
  input: z
    .unknown()
    .optional()
    .transform((value, context) => readPromptList(value, context, "input", limits.assignTexts)),
  /** How many centroids to name per text, the nearest included. */
  top: absentAs(z.int().min(1).max(16), 4),
});

export type CompletionRequest = z.infer<typeof completionRequestSchema>;
export type AssignRequest = z.infer<typeof assignRequestSchema>;

export interface CompletionLogprobs {
  tokens: string[];
  /** null for the first token of an echoed prompt, which has no context. */
  token_logprobs: (number | null)[];
  top_logprobs: Record<string, number>[];
  /** Where each token starts in `text`, in Unicode code points. */
  text_offset: number[];
}

/** Milliseconds of each phase; the same names as in the Server-Timing header. */
export interface Timings {
  tokenize: number;
  assign: number;
  queue: number;
  adapter: number;
  prefill: number;
  decode: number;
}

export interface ComparedToken {
  token: string;
  logprob: number;
  base_logprob: number;
}

/** What the adapter did to one choice. */
export interface ChameleonBlock {
  /** The nearest centroid, or the one that the request named. */
  centroid: string;
  similarity: number;
  /** `adapted`; `off`: the request wanted the base; `auto-off`: the centroid's adapter did not help when measured. */
  mode: "adapted" | "off" | "auto-off";
  adapter: { hash: string; cache: "hit" | "generated"; scale: number } | null;
  /** The centroid's held-out gain over the base, in nats a token; null where none was measured or none applies. */
  gain: { nats: number; ci95: [number, number]; tokens: number } | null;
  timings: Timings;
  /**
   * With `compare`: logprobs with and without the adapter, and their mean difference in nats a token. In a stream every
   * chunk has its own `tokens`, and the last one the mean over all.
   */
  compare?: { tokens: ComparedToken[]; mean_difference?: number | null };
}

export interface CompletionChoice {
  index: number;
  text: string;
  logprobs: CompletionLogprobs | null;
  finish_reason: "stop" | "length" | null;
  chameleon?: Partial<ChameleonBlock>;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Where some of the prompt need not be computed. */
  prompt_tokens_details?: { cached_tokens: number };
}

/** A whole completion, or one chunk of a streamed one. */
export interface CompletionResponse {
  id: string;
  object: "text_completion";
  created: number;
  model: string;
  system_fingerprint: string;
  choices: CompletionChoice[];
  usage?: Usage | null;
  /** The first choice's block. */
  chameleon?: Partial<ChameleonBlock>;
}

function readPrompts(value: unknown, context: z.RefinementCtx): Prompt[] | null {
  if (value === undefined || value === null) return null;
  return readPromptList(value, context, "prompt", limits.promptsPerRequest);
}
