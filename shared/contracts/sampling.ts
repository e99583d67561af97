/** Sampling parameters, named as by OpenAI or vLLM. A new parameter needs code in sampler.ts and a higher `contractVersion`. */
import * as z from "zod";
import { describe, kindOf, listOf, refuser } from "./fields.ts";
import { limits } from "./limits.ts";

const tokenId = z.int().min(0);
const stopString = z.string().min(1).max(limits.stopCharacters);
const stopText = { type: "string", minLength: 1, maxLength: limits.stopCharacters };
const penalty = z.number().min(-limits.penaltyMagnitude).max(limits.penaltyMagnitude);

/** Parameters whose value is a number or a boolean: type, default, and description in the API document. */
const scalars = {
  temperature: [z.number().min(0).max(limits.temperature), 1, "0 takes the likeliest token"],
  top_p: [z.number().min(0).max(1), 1, "Draws from the likeliest tokens of this probability together"],
  top_k: [z.int().min(-1), 0, "Draws from so many likeliest tokens; -1 and 0 are all"],
  min_p: [z.number().min(0).max(1), 0, "Draws from tokens at least so likely, as a share of the likeliest"],
  ignore_eos: [
    z.boolean(),
    false,
    "The model's stop ids, and in a chat what its template stops at, end nothing; a stop id counts as a token without text",
  ],
  min_tokens: [
    z.int().min(0),
    0,
    "Neither a stop id nor a stop string ends a choice before it has so many tokens; no more than its most tokens",
  ],
  presence_penalty: [penalty, 0, "Taken from the logits of tokens that are in the text"],
  frequency_penalty: [penalty, 0, "The same for each time that they are"],
  // Defined in CTRL (arXiv 1909.05858).
  repetition_penalty: [
    z
      .number()
      .min(1 / limits.repetitionPenalty)
      .max(limits.repetitionPenalty),
    1,
    "Of tokens in the prompt or the text a logit above 0 is divided by it, any other multiplied, before biases and the other penalties. In a mixture, which has no logits, log-probabilities are multiplied: p becomes p to this power",
  ],
} as const satisfies Record<string, readonly [type: z.ZodType, preset: number | boolean, description: string]>;
type Scalars = typeof scalars;

const mapScalars = <To>(map: (scalar: Scalars[keyof Scalars]) => To) =>
  Object.fromEntries(Object.entries(scalars).map(([name, scalar]) => [name, map(scalar)]));

export const samplingSchema = z.strictObject({
  ...(mapScalars(([type]) => type) as { [Name in keyof Scalars]: Scalars[Name][0] }),
  /** Seed of the random number generator (`shared/math/sampling.ts`). */
  seed: z.int().min(0).max(0xffffffff),
  /** The request's stop strings, and one stop string of the chat template. */
  stop: z.array(stopString).max(limits.stopStrings + 1),
  /** Token ids that end the text, and are not part of it. */
  stop_token_ids: z.array(tokenId).max(limits.stopTokenIds),
  /** Number of alternatives to report for each token. null: report no logprob at all. */
  logprobs: z.int().min(0).max(limits.chatLogprobs).nullable(),
  logit_bias: z
    .array(z.tuple([tokenId, z.number().min(-limits.logitBiasMagnitude).max(limits.logitBiasMagnitude)]))
    .max(limits.logitBiasEntries),
  /** The form that the text must have: JSON (json-schema.ts) or calls of functions (tools.ts). null for any text. */
  text_form: z.string().max(limits.schemaFormCharacters).nullable(),
});

export type Sampling = z.infer<typeof samplingSchema>;
export type SamplingChanges = Partial<Sampling>;

export const defaultSampling: Readonly<Sampling> = {
  ...(mapScalars(([, preset]) => preset) as Pick<Sampling, keyof Scalars>),
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

export const samplingFields = {
  ...(mapScalars(([type, preset, description]) => type.nullish().meta({ description, default: preset })) as {
    [Name in keyof Scalars]: z.ZodOptional<z.ZodNullable<Scalars[Name][0]>>;
  }),
  stop: z
    .unknown()
    .transform(readStop)
    .meta({ anyOf: [stopText, { type: "array", items: stopText, maxItems: limits.stopStrings }] })
    .nullish()
    .meta({ description: "Ends a choice before this text, or the first of several" }),
  stop_token_ids: listOf("stop_token_ids", tokenId, { max: limits.stopTokenIds }).nullish().meta({
    description: "Token ids that end a choice as the end of text does: with `stop`, and neither shown nor counted",
  }),
  logit_bias: z
    .unknown()
    .transform(readLogitBias)
    .meta({ type: "object", additionalProperties: { type: "number" }, maxProperties: limits.logitBiasEntries })
    .nullish()
    .meta({ description: "Token id → what is added to its logit" }),
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

/** Does not use a zod schema, because zod would make an issue of each of perhaps thousands of bad entries. */
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
