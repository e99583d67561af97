/**
 * How tokens are drawn. Parameters have OpenAI's names, and vLLM's where OpenAI has none, from the request to the sampler, so
 * nothing renames them. To add one: its type, default and description here, its effect in the
 * backend's sampler, and a new version of the protocols, because a backend refuses a parameter that it does not know.
 */
import * as z from "zod";
import { describe, isTokenId, kindOf, listOf, refuser } from "./fields.ts";
import { limits } from "./limits.ts";

const tokenId = z.int().min(0);
const stopString = z.string().min(1).max(limits.stopCharacters);
const penalty = z.number().min(-limits.penaltyMagnitude).max(limits.penaltyMagnitude);

/** Parameters that are one number or boolean. */
const scalars = {
  /** 0 is greedy. */
  temperature: z.number().min(0).max(limits.temperature),
  top_p: z.number().min(0).max(1),
  /** Only so many of the likeliest tokens are drawn from; below 1 all are. */
  top_k: z.int().min(-1),
  /** Only tokens at least this fraction as likely as the likeliest, at the temperature, are drawn from; 0 is all. */
  min_p: z.number().min(0).max(1),
  /** The model's stop ids are tokens like others, without text. */
  ignore_eos: z.boolean(),
  /** Nothing ends the text before it has so many tokens, `continuedIds` counted; at most `maxTokens`. */
  min_tokens: z.int().min(0),
  presence_penalty: penalty,
  frequency_penalty: penalty,
  /**
   * Of tokens in the prompt or the text: a logit above 0 is divided by it, any other multiplied, before bias and the other
   * penalties are added (CTRL, arXiv 1909.05858). The logit of a mixture's token is its log-probability.
   */
  repetition_penalty: z
    .number()
    .min(1 / limits.repetitionPenalty)
    .max(limits.repetitionPenalty),
};

/** As the backend checks it. */
export const samplingSchema = z.strictObject({
  ...scalars,
  /** With the position it is the whole state of the random number generator (`shared/math/sampling.ts`). */
  seed: z.int().min(0).max(0xffffffff),
  /** The caller's, and that of a chat template. */
  stop: z.array(stopString).max(limits.stopStrings + 1),
  /** Token ids that end the text as the end of text does, without being in it. */
  stop_token_ids: z.array(tokenId).max(limits.stopTokenIds),
  /** Alternatives reported per token; null reports no logprob at all. */
  logprobs: z.int().min(0).max(limits.chatLogprobs).nullable(),
  logit_bias: z
    .array(z.tuple([tokenId, z.number().min(-limits.logitBiasMagnitude).max(limits.logitBiasMagnitude)]))
    .max(limits.logitBiasEntries),
  /** The text is JSON that this form admits (json-schema.ts), or calls functions (tools.ts); null for any text. */
  text_form: z.string().max(limits.schemaFormCharacters).nullable(),
});

export type Sampling = z.infer<typeof samplingSchema>;
/** What differs from `defaultSampling`; messages carry no more. A model's manifest may have other defaults of requests. */
export type SamplingChanges = Partial<Sampling>;

export const defaultSampling: Readonly<Sampling> = {
  temperature: 1,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  ignore_eos: false,
  min_tokens: 0,
  presence_penalty: 0,
  frequency_penalty: 0,
  repetition_penalty: 1,
  seed: 0,
  stop: [],
  stop_token_ids: [],
  logprobs: null,
  logit_bias: [],
  text_form: null,
};

export function samplingWith(changes: SamplingChanges): Sampling {
  return { ...defaultSampling, ...changes };
}

/** A request's field for a parameter that is one number or boolean. */
function scalarField<Name extends keyof typeof scalars>(name: Name, description: string) {
  const field = scalars[name].nullish().meta({ description, default: defaultSampling[name] });
  return field as z.ZodOptional<z.ZodNullable<(typeof scalars)[Name]>>;
}

/** A stop string, or several. */
const stopField = z
  .unknown()
  .transform(readStop)
  .nullish()
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

const stopTokenIdsField = listOf({
  ...{ name: "stop_token_ids", of: "token ids", max: limits.stopTokenIds },
  ...{ isEntry: isTokenId, rule: "a token id is an integer from 0" },
})
  .nullish()
  .meta({
    description: "Token ids that end a choice as the end of text does: with `stop`, and neither shown nor counted",
    anyOf: [{ type: "null" }, { type: "array", maxItems: limits.stopTokenIds, items: { type: "integer", minimum: 0 } }],
  });

const logitBiasField = z
  .unknown()
  .transform(readLogitBias)
  .nullish()
  .meta({
    description: "Token id → what is added to its logit",
    anyOf: [
      { type: "null" },
      { type: "object", additionalProperties: { type: "number" }, maxProperties: limits.logitBiasEntries },
    ],
  });

/** A request's fields. A null field counts as absent. */
export const samplingFields = {
  temperature: scalarField("temperature", "0 takes the likeliest token"),
  top_p: scalarField("top_p", "Draws from the likeliest tokens of this probability together"),
  top_k: scalarField("top_k", "Draws from so many likeliest tokens; -1 and 0 are all"),
  min_p: scalarField("min_p", "Draws from tokens at least so likely, as a share of the likeliest"),
  stop: stopField,
  stop_token_ids: stopTokenIdsField,
  ignore_eos: scalarField(
    "ignore_eos",
    "The model's stop ids, and in a chat what its template stops at, end nothing; a stop id counts as a token without text",
  ),
  min_tokens: scalarField(
    "min_tokens",
    "Neither a stop id nor a stop string ends a choice before it has so many tokens; no more than its most tokens",
  ),
  presence_penalty: scalarField("presence_penalty", "Taken from the logits of tokens that are in the text"),
  frequency_penalty: scalarField("frequency_penalty", "The same for each time that they are"),
  repetition_penalty: scalarField(
    "repetition_penalty",
    "Of tokens in the prompt or the text a logit above 0 is divided by it, any other multiplied, before biases and the other penalties. In a mixture, which has no logits, log-probabilities are multiplied: p becomes p to this power",
  ),
  logit_bias: logitBiasField,
};

function readStop(value: unknown, context: z.RefinementCtx): string[] {
  const refuse = refuser(context, value);
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
  const refuse = refuser(context, value);
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
