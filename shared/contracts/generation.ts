/**
 * What requests for completions and for chat completions have in common: OpenAI's sampling fields, some more as
 * vLLM has them, and the `chameleon` extension.
 */
import { z } from "zod";
import { absentAs, describe, kindOf, modelField, userField } from "./fields.ts";
import { limits } from "./limits.ts";

const penalty = z.number().min(-limits.penaltyMagnitude).max(limits.penaltyMagnitude);

/** An expert that a request lists, with its weight; null: the prompt decides. */
export interface ListedExpert {
  id: string;
  weight: number | null;
}
/** `chameleon.adapter` as it was read. */
export type AdapterField = string | ListedExpert[];

const expertSchema = {
  type: "object",
  properties: {
    id: {
      type: "string",
      minLength: 1,
      maxLength: limits.adapterCharacters,
      description: "`base`, a centroid, your own",
    },
    weight: { anyOf: [{ type: "null" }, { type: "number", minimum: 0, maximum: limits.expertWeight }] },
  },
  required: ["id"],
};
const adapterField = absentAs(
  z.unknown().transform(readAdapter),
  null,
  "`auto`: the prompt's own tokens weigh the base, the nearest centroids' adapters and a pointer that copies from the prompt; `nearest`: the nearest centroid's adapter at full strength; `off`: the base; a centroid or an adapter of your own at full strength; or a list of experts. Without weights a list is weighed as `auto` is, its adapters equally likely before, and the base as likely as for a typical prompt; if it does not list `base`, the base keeps its floor all the same. With a weight for each it is served in these proportions, without a pointer. An adapter that is off counts as the base",
).meta({
  anyOf: [
    { type: "null" },
    { type: "string", minLength: 1, maxLength: limits.adapterCharacters },
    { type: "array", items: expertSchema, minItems: 1, maxItems: limits.mixtureAdapters + 1 },
  ],
});

const chameleonField = absentAs(
  z.object({
    adapter: adapterField,
    compare: absentAs(z.boolean(), false, "Tell each token's logprob beside that of the base"),
    evidence_tokens: absentAs(
      z.int().min(1),
      null,
      "Only the first so many tokens of the prompt assign it, weigh its experts and are copied from, up to the context. With `echo` and `logprobs` those are scored by the base, and the rest as a continuation of them would be",
    ),
  }),
  { adapter: null, compare: false, evidence_tokens: null },
  "What answers, over what `model` says",
);

/** A stop string, or several. */
const stopField = absentAs(z.unknown().transform(readStop), [], "Ends a choice before this text").meta({
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

const stopTokenIdsField = absentAs(
  z.unknown().transform(readStopTokenIds),
  [],
  "Token ids that end a choice as the end of text does: with `stop`, and neither shown nor counted",
).meta({
  anyOf: [{ type: "null" }, { type: "array", maxItems: limits.stopTokenIds, items: { type: "integer", minimum: 0 } }],
});

const logitBiasField = absentAs(z.unknown().transform(readLogitBias), [], "Token id → what is added to its logit").meta(
  {
    anyOf: [
      { type: "null" },
      { type: "object", additionalProperties: { type: "number" }, maxProperties: limits.logitBiasEntries },
    ],
  },
);

export const generationFields = {
  model: modelField("`gpt2:auto` (the prompt's evidence decides) where it is absent; see `GET /v1/models`"),
  temperature: absentAs(z.number().min(0).max(limits.temperature), 1, "0 takes the likeliest token"),
  top_p: absentAs(z.number().min(0).max(1), 1, "Draws from the likeliest tokens of this probability together"),
  top_k: absentAs(
    z
      .int()
      .min(-1)
      .transform((count) => Math.max(count, 0)),
    0,
    "Draws from so many likeliest tokens; -1 and 0 are all",
  ),
  min_p: absentAs(z.number().min(0).max(1), 0, "Draws from tokens at least so likely, as a share of the likeliest"),
  n: absentAs(z.int().min(1).max(limits.choicesPerPrompt), 1, "Choices of each prompt"),
  stop: stopField,
  stop_token_ids: stopTokenIdsField,
  ignore_eos: absentAs(
    z.boolean(),
    false,
    "The end of text, and in a chat what the model's template stops at, ends nothing; an end of text counts as a token without text",
  ),
  min_tokens: absentAs(
    z.int().min(0),
    0,
    "Neither the end of text nor a stop ends a choice before it has so many tokens; no more than its most tokens",
  ),
  seed: absentAs(z.int(), null, "Repeats a text, token for token; 32 bits of it count"),
  presence_penalty: absentAs(penalty, 0, "Taken from the logits of tokens that are in the text"),
  frequency_penalty: absentAs(penalty, 0, "The same for each time that they are"),
  repetition_penalty: absentAs(
    z
      .number()
      .min(1 / limits.repetitionPenalty)
      .max(limits.repetitionPenalty),
    1,
    "Of tokens in the prompt or the text a logit above 0 is divided by it, any other multiplied, before biases and the other penalties. In a mixture, which has no logits, log-probabilities are multiplied: p becomes p to this power",
  ),
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
  request: { n: number; stream: boolean; stream_options: object | null; min_tokens: number },
  { prompts, mostTokens }: { prompts: number; mostTokens: { name: string; value: number } | null },
  refuse: Refuse,
): void {
  const choices = prompts * request.n;
  if (choices > limits.choicesPerRequest) {
    refuse("n", `prompts × n is ${choices}, the maximum is ${limits.choicesPerRequest}`);
  }
  if (request.stream_options && !request.stream) refuse("stream_options", "stream_options needs stream: true");
  if (mostTokens && request.min_tokens > mostTokens.value) {
    refuse("min_tokens", `min_tokens is ${request.min_tokens}, the maximum is ${mostTokens.name}: ${mostTokens.value}`);
  }
}

function readStop(value: unknown, context: z.RefinementCtx): string[] {
  const refuse = (message: string): string[] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
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

/** Counts before it looks at the entries: an element schema would make an issue of each. */
function readStopTokenIds(value: unknown, context: z.RefinementCtx): number[] {
  const refuse = (message: string): number[] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (!Array.isArray(value)) return refuse(`stop_token_ids is ${kindOf(value)}; it must be a list of token ids`);
  const ids: unknown[] = value;
  if (ids.length > limits.stopTokenIds) {
    return refuse(`stop_token_ids has ${ids.length} entries, the maximum is ${limits.stopTokenIds}`);
  }
  const bad = ids.findIndex((id) => !Number.isSafeInteger(id) || (id as number) < 0);
  if (bad >= 0) return refuse(`stop_token_ids[${bad}] is ${describe(ids[bad])}; a token id is an integer from 0`);
  return ids as number[];
}

/** Counts before it looks at the entries: an element schema would make an issue of each. */
function readAdapter(value: unknown, context: z.RefinementCtx): AdapterField {
  const refuse = (message: string): AdapterField => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (!Array.isArray(value)) {
    const problem = idProblem(value);
    return problem ? refuse(`chameleon.adapter ${problem}, or a list of experts`) : (value as string);
  }
  const problem = expertsProblem(value);
  if (problem) return refuse(problem);
  return (value as Partial<ListedExpert>[]).map(({ id, weight }) => ({ id: id!, weight: weight ?? null }));
}

function idProblem(id: unknown): string | null {
  const most = limits.adapterCharacters;
  if (typeof id !== "string") return `is ${describe(id)}; it must be a string of 1 to ${most} characters`;
  if (id.length >= 1 && id.length <= most) return null;
  return `has ${id.length} characters; it must be a string of 1 to ${most}`;
}

function expertsProblem(experts: readonly unknown[]): string | null {
  const { mixtureAdapters, expertWeight } = limits;
  const at = (i: number) => `chameleon.adapter[${i}]`;
  if (experts.length === 0) return "chameleon.adapter is an empty list; at least one expert is needed";
  if (experts.length > mixtureAdapters + 1) {
    return `chameleon.adapter has ${experts.length} entries, the maximum is ${mixtureAdapters} beside base`;
  }
  const first = (experts[0] as { weight?: unknown } | null)?.weight ?? null;
  const seen = new Set<unknown>();
  let sum = 0;
  for (const [i, expert] of experts.entries()) {
    if (typeof expert !== "object" || expert === null || Array.isArray(expert)) {
      return `${at(i)} is ${describe(expert)}; it must be an object with an id`;
    }
    const { id, weight = null } = expert as { id?: unknown; weight?: unknown };
    const problem = idProblem(id);
    if (problem) return `${at(i)}.id ${problem}`;
    if (seen.has(id)) return `${at(i)}.id is ${describe(id)}, which is in the list already`;
    seen.add(id);
    if ((weight === null) !== (first === null)) {
      return `${at(i)}.weight is ${describe(weight)}, ${at(0)}.weight is ${describe(first)}; all experts have a weight, or none`;
    }
    if (weight === null) continue;
    if (typeof weight !== "number" || weight < 0 || weight > expertWeight) {
      return `${at(i)}.weight is ${describe(weight)}; it must be a number from 0 to ${expertWeight}`;
    }
    sum += weight;
  }
  if (seen.size > mixtureAdapters && !seen.has("base")) {
    return `chameleon.adapter has ${seen.size} adapters, the maximum is ${mixtureAdapters} beside base`;
  }
  return first === null || sum > 0 ? null : "the weights in chameleon.adapter add up to 0; the sum must be above 0";
}

/** Counts before it looks at the entries: a record schema would make an issue of each. */
function readLogitBias(value: unknown, context: z.RefinementCtx): [number, number][] {
  const refuse = (message: string): [number, number][] => {
    context.addIssue({ code: "custom", message, input: value });
    return z.NEVER;
  };
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
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
