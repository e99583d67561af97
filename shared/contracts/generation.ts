/**
 * What requests for completions and for chat completions have in common: OpenAI's sampling fields, `top_k` and `min_p` as
 * vLLM has them, and the `chameleon` extension.
 */
import { z } from "zod";
import { absentAs, describe, kindOf, modelField, userField } from "./fields.ts";
import { limits } from "./limits.ts";

const penalty = z.number().min(-limits.penaltyMagnitude).max(limits.penaltyMagnitude);
const adapterId = z.string().min(1).max(limits.adapterCharacters);

const chameleonField = absentAs(
  z.object({
    adapter: absentAs(adapterId, undefined, "`auto`: the nearest centroid's; `off`: none; or a centroid, or your own"),
    compare: absentAs(z.boolean(), false, "Tell each token's logprob with and without the adapter"),
    // Only where asked for: below temperature 1, text that is sampled with it repeats its prompt more than people do.
    prompt_bias: absentAs(
      z.boolean(),
      false,
      "Raise the prompt's own tokens on top of a centroid's adapter that gains by it",
    ),
  }),
  { adapter: undefined, compare: false, prompt_bias: false },
  "What the adapter is to be, over what `model` says",
);

/** A stop string, or several. */
const stopField = z
  .unknown()
  .optional()
  .transform(readStop)
  .meta({
    description: "Ends a choice before this text",
    anyOf: [
      { type: "null" },
      { type: "string", minLength: 1, maxLength: limits.stopCharacters },
      {
        type: "array",
        maxItems: limits.stopStrings,
        items: { type: "string", minLength: 1, maxLength: limits.stopCharacters },
      },
    ],
  });

const logitBiasField = z
  .unknown()
  .optional()
  .transform(readLogitBias)
  .meta({
    description: "Token id → what is added to its logit",
    anyOf: [
      { type: "null" },
      { type: "object", additionalProperties: { type: "number" }, maxProperties: limits.logitBiasEntries },
    ],
  });

export const generationFields = {
  model: modelField("`gpt2:auto` (nearest centroid) where it is absent; see `GET /v1/models`"),
  temperature: absentAs(z.number().min(0).max(limits.temperature), 1, "0 takes the likeliest token"),
  top_p: absentAs(z.number().min(0).max(1), 1, "Draws from the likeliest tokens of this probability together"),
  top_k: absentAs(z.int().min(-1), 0, "Draws from so many likeliest tokens; -1 and 0 are all").transform((count) =>
    Math.max(count, 0),
  ),
  min_p: absentAs(z.number().min(0).max(1), 0, "Draws from tokens at least so likely, as a share of the likeliest"),
  n: absentAs(z.int().min(1).max(limits.choicesPerPrompt), 1, "Choices of each prompt"),
  stop: stopField,
  seed: absentAs(z.int(), null, "Repeats a text, token for token; 32 bits of it count"),
  presence_penalty: absentAs(penalty, 0, "Taken from the logits of tokens that are in the text"),
  frequency_penalty: absentAs(penalty, 0, "The same for each time that they are"),
  logit_bias: logitBiasField,
  stream: absentAs(z.boolean(), false, "Server-sent events, ended by `[DONE]`"),
  stream_options: absentAs(
    z.object({ include_usage: absentAs(z.boolean(), false, "Usage in a last chunk that has no choices") }),
    null,
    "With `stream` only",
  ),
  user: userField,
  chameleon: chameleonField,
};

/** Adds the issue of a request whose `param` is at fault. */
export type Refuse = (param: string, message: string) => void;

/** Checks that need more than one field. */
export function refuseTogether(
  request: { n: number; stream: boolean; stream_options: object | null },
  prompts: number,
  refuse: Refuse,
): void {
  const choices = prompts * request.n;
  if (choices > limits.choicesPerRequest) {
    refuse("n", `prompts × n is ${choices}, the maximum is ${limits.choicesPerRequest}`);
  }
  if (request.stream_options && !request.stream) refuse("stream_options", "stream_options needs stream: true");
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

/** Counts before it looks at the entries: a record schema would make an issue of each. */
function readLogitBias(value: unknown, context: z.RefinementCtx): [number, number][] {
  const refuse = (message: string): [number, number][] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (value === undefined || value === null) return [];
  if (typeof value !== "object" || Array.isArray(value)) {
    return refuse(`logit_bias is ${kindOf(value)}; it must be an object`);
  }
  const entries: [string, unknown][] = Object.entries(value);
  if (entries.length > limits.logitBiasEntries) {
    return refuse(`logit_bias has ${entries.length} entries, the maximum is ${limits.logitBiasEntries}`);
  }
  const magnitude = limits.logitBiasMagnitude;
  const biases: [number, number][] = [];
  for (const [key, bias] of entries) {
    if (!/^(0|[1-9]\d{0,8})$/.test(key)) return refuse(`logit_bias has the key ${describe(key)}; keys are token ids`);
    if (typeof bias !== "number") return refuse(`logit_bias of token ${key} is ${describe(bias)}; it must be a number`);
    if (Math.abs(bias) > magnitude) {
      return refuse(`logit_bias of token ${key} is ${bias}; it must be between ${-magnitude} and ${magnitude}`);
    }
    biases.push([Number(key), bias]);
  }
  return biases;
}
