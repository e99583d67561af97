/**
 * The public wire: OpenAI's completion schemas as far as they are served here, `top_k` and `min_p` as vLLM has them, and
 * the `chameleon` extension.
 * A field that is null counts as absent, as with OpenAI; unknown fields are ignored, so that other clients' extras pass.
 * Not here: checks that need the model (vocabulary, context), and the way from a request to sequences.
 */
import { z } from "zod";
import { limits } from "./limits.ts";

/** A prompt as it came: text still to be encoded, or token ids. */
export type Prompt = string | number[];

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

/** null and absent alike become `fallback`. */
function absentAs<T extends z.ZodType, F>(schema: T, fallback: F) {
  return schema.nullish().transform((value) => (value ?? fallback) as NonNullable<z.output<T>> | F);
}

function readPrompts(value: unknown, context: z.RefinementCtx): Prompt[] | null {
  if (value === undefined || value === null) return null;
  return readPromptList(value, context, "prompt", limits.promptsPerRequest);
}

/** A string, strings, token ids or lists of them, as a list of prompts. */
function readPromptList(value: unknown, context: z.RefinementCtx, name: string, maximum: number): Prompt[] {
  const refuse = (message: string): Prompt[] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (typeof value !== "string" && !Array.isArray(value)) {
    return refuse(
      `${name} is ${kindOf(value)}; it must be a string, a list of strings, token ids or lists of token ids`,
    );
  }
  const prompts: unknown[] = typeof value === "string" || typeof value[0] === "number" ? [value] : value;
  if (prompts.length === 0) return refuse(`${name} is an empty list; at least one is needed`);
  if (prompts.length > maximum) return refuse(`${name} has ${prompts.length} entries, the maximum is ${maximum}`);
  const kind = typeof prompts[0];
  for (const [i, prompt] of prompts.entries()) {
    const at = prompts.length > 1 ? `${name}[${i}]` : name;
    if (typeof prompt !== kind)
      return refuse(`${at} is ${kindOf(prompt)}, ${name}[0] is ${kindOf(prompts[0])}; all must be alike`);
    if (typeof prompt !== "string" && !Array.isArray(prompt)) return refuse(`${at} is ${kindOf(prompt)}`);
    if (prompt.length === 0) return refuse(`${at} is empty; at least one token is needed`);
    if (typeof prompt === "string") continue;
    const bad = prompt.findIndex((id) => !Number.isSafeInteger(id) || id < 0);
    if (bad >= 0) return refuse(`${at}[${bad}] is ${describe(prompt[bad])}; a token id is an integer from 0`);
  }
  return prompts as Prompt[];
}

function readStop(value: unknown, context: z.RefinementCtx): string[] {
  const refuse = (message: string): string[] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (value === undefined || value === null) return [];
  const stops: unknown[] = Array.isArray(value) ? value : [value];
  if (stops.length > limits.stopStrings) {
    return refuse(`stop has ${stops.length} strings, the maximum is ${limits.stopStrings}`);
  }
  for (const stop of stops) {
    if (typeof stop !== "string") return refuse(`stop holds ${kindOf(stop)}; it must be a string or a list of strings`);
    if (stop.length === 0 || stop.length > limits.stopCharacters) {
      return refuse(`a stop string has ${stop.length} characters; it must have 1 to ${limits.stopCharacters}`);
    }
  }
  return stops as string[];
}

function readLogitBias(bias: Record<string, number>, context: z.RefinementCtx): [number, number][] {
  const entries = Object.entries(bias);
  const refuse = (message: string): [number, number][] => {
    context.addIssue({ code: "custom", message, input: bias });
    return z.NEVER;
  };
  if (entries.length > limits.logitBiasEntries) {
    return refuse(`logit_bias has ${entries.length} entries, the maximum is ${limits.logitBiasEntries}`);
  }
  const magnitude = limits.logitBiasMagnitude;
  for (const [key, value] of entries) {
    if (!/^(0|[1-9]\d{0,8})$/.test(key)) return refuse(`logit_bias has the key ${describe(key)}; keys are token ids`);
    if (Math.abs(value) > magnitude) {
      return refuse(`logit_bias of token ${key} is ${value}; it must be between ${-magnitude} and ${magnitude}`);
    }
  }
  return entries.map(([key, value]) => [Number(key), value]);
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (value === null || value === undefined) return "null";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** A value as a message shows it: short, whatever a client sent. */
function describe(value: unknown): string {
  return typeof value === "number"
    ? String(value)
    : typeof value === "string"
      ? JSON.stringify(value.slice(0, 40))
      : kindOf(value);
}
