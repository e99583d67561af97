/** Common fields and checks of requests for generated text: sampling, streaming, and the extension `chameleon`. */
import * as z from "zod";
import { absentAs, describe, kindOf, modelField, refuser, userField } from "./fields.ts";
import { anyObject, schemaForm } from "./json-schema.ts";
import { limits } from "./limits.ts";
import { type SamplingChanges, samplingFields } from "./sampling.ts";

/** An expert that a request names. `weight`: null if the prompt decides the weight. */
export interface ListedExpert {
  id: string;
  weight: number | null;
}
export type AdapterField = string | ListedExpert[];

const expertSchema = {
  type: "object",
  properties: {
    id: {
      type: "string",
      minLength: 1,
      maxLength: limits.adapterCharacters,
      description: "`base`, `static`, a centroid, your own",
    },
    weight: { anyOf: [{ type: "null" }, { type: "number", minimum: 0, maximum: limits.expertWeight }] },
  },
  required: ["id"],
};
const adapterField = absentAs(
  z
    .unknown()
    .transform(readAdapter)
    .meta({
      anyOf: [
        { type: "string", minLength: 1, maxLength: limits.adapterCharacters },
        { type: "array", items: expertSchema, minItems: 1, maxItems: limits.mixtureAdapters + 1 },
      ],
    }),
  null,
  "`auto`: the prompt's own tokens weigh the base, the static adapter and the nearest centroids' adapters; `nearest`: the nearest centroid's adapter at full strength; `off`: the base; `static` (the adapter for every text), a centroid or an adapter of your own at full strength; or a list of experts. Without weights a list is weighed as `auto` is, its adapters equally likely before, and the base as likely as it is for `auto`; if it does not list `base`, the base keeps its floor all the same. With a weight for each it is served in these proportions. A centroid that is off counts as the static adapter, or as the base where there is none",
);

const chameleonFields = {
  adapter: adapterField,
  compare: absentAs(z.boolean(), false, "Tell each token's logprob beside that of the base"),
  sources: absentAs(z.boolean(), false, "Tell the passages of your own documents that spoke for each token"),
  retrieve: absentAs(
    z.int().min(1).max(limits.retrievedPassages),
    null,
    `Put so many passages of your own documents into the prompt, those nearest to it: of the adapter that the request names, or of \`auto\`'s nearest. In a chat they come before the last message of the user. They count as prompt tokens, each up to ${limits.passageTokens}. Not with \`prompt_logprobs\`, nor with \`echo\` and \`logprobs\` together`,
  ),
  evidence_tokens: absentAs(
    z.int().min(1),
    null,
    "Only the first so many tokens of the prompt assign it and weigh its experts, up to the context. With `echo` and `logprobs` those are scored by the base, and the rest as a continuation of them would be",
  ),
};
const chameleonSchema = z.strictObject(chameleonFields, {
  error: ({ code, keys }) =>
    code === "unrecognized_keys"
      ? `chameleon has no field ${describe((keys as string[])[0])}; its fields are ${Object.keys(chameleonFields).join(", ")}`
      : undefined,
});
const chameleonField = absentAs(
  chameleonSchema,
  null,
  "What answers, over what `model` says. An object, even an empty one, asks for the block `chameleon` of each choice",
);

/** `response_format`. Its parsed value is a form (json-schema.ts), or null for any text. */
const responseFormatField = absentAs(
  z
    .unknown()
    .transform((value, context) => readFormat(value, context, "response_format", "json_schema"))
    .meta({
      anyOf: [
        { type: "object", properties: { type: { enum: ["text", "json_object"] } }, required: ["type"] },
        {
          type: "object",
          properties: {
            type: { const: "json_schema" },
            json_schema: {
              type: "object",
              properties: {
                name: { type: "string", maxLength: limits.formatCharacters },
                schema: { type: "object", description: "JSON Schema; see `API.md` for its keywords" },
                strict: { anyOf: [{ type: "null" }, { type: "boolean" }] },
              },
              required: ["schema"],
            },
          },
          required: ["type", "json_schema"],
        },
      ],
    }),
  null,
  "`json_object`: the text is a JSON object; `json_schema`: it is JSON that the schema admits. `strict` and `description` change nothing. Not with `ignore_eos` or `min_tokens`",
);

export const generationFields = {
  model: modelField("`smollm2-135m:auto` (the prompt's evidence decides) where it is absent; see `GET /v1/models`"),
  n: absentAs(z.int().min(1).max(limits.choicesPerPrompt), 1, "Choices of each prompt"),
  ...samplingFields,
  seed: absentAs(z.int(), null, "Repeats a text, token for token; 32 bits of it count"),
  stream: absentAs(z.boolean(), false, "Server-sent events, ended by `[DONE]`"),
  stream_options: absentAs(
    z.object({ include_usage: absentAs(z.boolean(), false, "Usage in a last chunk that has no choices") }),
    null,
    "With `stream` only",
  ),
  response_format: responseFormatField,
  prompt_logprobs: absentAs(
    z.int().min(0).max(limits.chatLogprobs),
    null,
    "Tell each prompt token's logprob, and those of so many likeliest tokens, as vLLM does. Not with `stream`",
  ),
  user: userField,
  chameleon: chameleonField,
};

const nothingAsked = Object.freeze(chameleonSchema.parse({}));

type SamplingField = keyof typeof samplingFields;

/** Moves sampling parameters into one object. `withBlock`: whether choices get the block `chameleon`. */
export function asGeneration<
  Request extends { chameleon: z.output<typeof chameleonField>; response_format?: string | null },
>(request: Request) {
  const others: Record<string, unknown> = {};
  const sampling: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(request)) {
    if (name === "response_format") continue;
    if (!Object.hasOwn(samplingFields, name)) others[name] = value;
    else if (value !== null && value !== undefined) sampling[name] = value;
  }
  if (request.response_format) sampling.text_form = request.response_format;
  return {
    ...(others as Omit<Request, SamplingField | "chameleon" | "response_format">),
    sampling: sampling as SamplingChanges,
    chameleon: request.chameleon ?? nothingAsked,
    withBlock: request.chameleon !== null,
  };
}

export type Refuse = (param: string, message: string) => void;

export function refuseTogether(
  request: {
    n: number;
    stream: boolean;
    stream_options: object | null;
    min_tokens?: number | null | undefined;
    ignore_eos?: boolean | null | undefined;
    response_format: string | null;
    prompt_logprobs?: number | null;
  },
  { prompts, maxTokens }: { prompts: number; maxTokens: { name: string; value: number } | null },
  refuse: Refuse,
): void {
  const choices = prompts * request.n;
  if (choices > limits.choicesPerRequest) {
    refuse("n", `prompts × n is ${choices}, the maximum is ${limits.choicesPerRequest}`);
  }
  if (request.stream_options && !request.stream) refuse("stream_options", "stream_options needs stream: true");
  if (request.stream && (request.prompt_logprobs ?? null) !== null)
    refuse("prompt_logprobs", "prompt_logprobs is set beside stream: true; only a whole answer has them");
  const minTokens = request.min_tokens ?? 0;
  if (request.response_format !== null && (minTokens > 0 || request.ignore_eos)) {
    const name = minTokens > 0 ? "min_tokens" : "ignore_eos";
    refuse(name, `${name} is set beside response_format or tools; the text ends where their form is complete`);
  }
  if (maxTokens && minTokens > maxTokens.value) {
    refuse("min_tokens", `min_tokens is ${minTokens}, the maximum is ${maxTokens.name}: ${maxTokens.value}`);
  }
}

/** Returns the form of the format in `field`. `within`: the format's property that holds the schema, or null. */
export function readFormat(
  value: unknown,
  context: z.RefinementCtx,
  field: string,
  within: string | null,
): string | null {
  const refuse = refuser(context, value);
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return refuse(`${field} is ${kindOf(value)}; it must be an object with a type`);
  const { type } = value as { type?: unknown };
  const holder = within === null ? value : (value as Record<string, unknown>)[within];
  const at = within === null ? field : `${field}.${within}`;
  if (type === "text") return null;
  if (type === "json_object") return anyObject;
  if (type !== "json_schema")
    return refuse(`${field}.type is ${describe(type)}; it must be text, json_object or json_schema`);
  const { name, schema } = (holder ?? {}) as { name?: unknown; schema?: unknown };
  const max = limits.formatCharacters;
  if (name !== undefined && (typeof name !== "string" || name.length > max))
    return refuse(`${at}.name is ${describe(name)}; it must be a string of at most ${max} characters`);
  if (typeof schema !== "object" || schema === null || Array.isArray(schema))
    return refuse(`${at}.schema is ${kindOf(schema)}; it must be an object`);
  const form = schemaForm(schema);
  if (typeof form === "string") return form;
  const { pointer, fault } = form;
  const place = pointer === "" ? `${at}.schema` : `${at}.schema at ${describe(pointer)}`;
  return refuse(`${place} ${fault}`);
}

/** Does not use a zod schema, because zod would make an issue of each of perhaps thousands of bad entries. */
function readAdapter(value: unknown, context: z.RefinementCtx): AdapterField {
  const refuse = refuser(context, value);
  if (!Array.isArray(value)) {
    const problem = idProblem(value);
    return problem ? refuse(`chameleon.adapter ${problem}, or a list of experts`) : (value as string);
  }
  const problem = expertsProblem(value);
  if (problem) return refuse(problem);
  return (value as Partial<ListedExpert>[]).map(({ id, weight }) => ({ id: id!, weight: weight ?? null }));
}

function idProblem(id: unknown): string | null {
  const max = limits.adapterCharacters;
  if (typeof id !== "string") return `is ${describe(id)}; it must be a string of 1 to ${max} characters`;
  if (id.length >= 1 && id.length <= max) return null;
  return `has ${id.length} characters; it must be a string of 1 to ${max}`;
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
