/**
 * `POST /v1/responses`, inward: its stateless part, as a chat's request and the settings that the answer repeats. What would change
 * the answer and is not built is refused by name; other unknown fields are ignored.
 */
import * as z from "zod";
import { type ChatMessage, messagesSchema, readMessages } from "./chat.ts";
import { absentAs, describe, isString, kindOf, listOf, metadataSchema, refuser } from "./fields.ts";
import { asGeneration, generationFields, type Refuse, readFormat, refuseTogether } from "./generation.ts";
import { limits } from "./limits.ts";

const logprobsIncluded = "message.output_text.logprobs";
const nothingStored = "nothing is stored here, so send the whole conversation as input";
const maxStores = limits.mixtureAdapters;
/** Passages in the prompt where a search does not say how many; and the most that it may ask for, as OpenAI allows. */
const [searchedPassages, maxResults] = [2, 50];

/** A field that must be absent or null. */
const refused = (name: string, why: string) =>
  z
    .unknown()
    .refine((value) => (value ?? null) === null, { error: `${name} is set; ${why}` })
    .optional()
    .meta({ description: `Refused: ${why}` });

const storeNames = listOf({
  ...{ name: "vector_store_ids", of: "names", max: maxStores },
  ...{ isEntry: isString, rule: "it must be the name of an adapter" },
});
const fileSearchSchema = z.object({
  type: z.literal("file_search"),
  vector_store_ids: absentAs(storeNames, [] as string[], ""),
  max_num_results: absentAs(z.int().min(1).max(maxResults), searchedPassages, ""),
  filters: refused("filters", "it is not built"),
  ranking_options: refused("ranking_options", "it is not built"),
});
const toolsField = listOf({
  ...{ name: "tools", of: "tools", max: limits.responseTools },
  isEntry: (tool): tool is unknown => (tool as { type?: unknown } | null)?.type === "file_search",
  rule: "only a tool of type file_search is built",
}).pipe(z.array(fileSearchSchema).max(1));
const storeName = { type: "string", maxLength: limits.adapterNameCharacters };
const fileSearchFields = {
  type: { const: "file_search" },
  vector_store_ids: { type: "array", items: storeName, maxItems: maxStores },
  max_num_results: { type: "integer", minimum: 1, maximum: maxResults, default: searchedPassages },
};
const toolSchema = { type: "object", properties: fileSearchFields, required: ["type"] };

const formatName = { type: "string", maxLength: limits.formatCharacters };
const formatSchema = {
  type: "object",
  properties: { type: { enum: ["text", "json_object", "json_schema"] }, name: formatName, schema: { type: "object" } },
  required: ["type"],
};

const { n, stream_options, ...shared } = generationFields;

export const responseRequestSchema = z
  .object({
    ...shared,
    input: z
      .unknown()
      .transform(readInput)
      .meta({
        description: "A message of the user, or a conversation: messages, and items of earlier answers",
        anyOf: [{ type: "string", maxLength: limits.bodyBytes }, messagesSchema],
      }),
    instructions: absentAs(z.string().max(limits.bodyBytes), null, "A message of the system before the input"),
    max_output_tokens: absentAs(z.int().min(1), null, "Most tokens; absent, all that the context holds"),
    top_logprobs: absentAs(
      z.int().min(0).max(limits.chatLogprobs),
      null,
      "Logprobs, and those of so many alternatives",
    ),
    include: absentAs(
      listOf({
        ...{ name: "include", of: "strings", max: limits.includes, isEntry: isString, rule: "it must be a string" },
      }),
      null,
      `\`${logprobsIncluded}\` tells each token's logprob, \`file_search_call.results\` is refused, others change nothing`,
    ),
    text: absentAs(
      z.object({
        format: absentAs(z.unknown().transform(readTextFormat), null, "").meta({
          description: "As `response_format` of a chat completion, but that `name` and `schema` are in itself",
          anyOf: [{ type: "null" }, formatSchema],
        }),
      }),
      null,
      "How the text is written",
    ),
    tools: absentAs(
      toolsField,
      [] as z.output<typeof toolsField>,
      "`file_search` puts up to four passages of your own documents into the prompt, of the adapters that `vector_store_ids` names, else of those that the answer considers",
    ).meta({ anyOf: [{ type: "null" }, { type: "array", items: toolSchema, maxItems: 1 }] }),
    tool_choice: z.unknown().optional().meta({ description: "`none` turns the search off" }),
    metadata: absentAs(metadataSchema, null, "Is repeated in the answer"),
    store: absentAs(z.boolean(), null, "Nothing is stored, whatever it is: the answer says `store: false`"),
    background: absentAs(z.literal(false), false, "An answer is sent with its request"),
    truncation: absentAs(z.literal("disabled"), "disabled", "No conversation is shortened"),
    response_format: refused("response_format", "in a response it is text.format"),
    previous_response_id: refused("previous_response_id", nothingStored),
    conversation: refused("conversation", nothingStored),
    prompt: refused("prompt", "no prompt is stored here, so send instructions and input"),
    context_management: refused("context_management", "it is not built"),
  })
  .superRefine((request, context) => {
    const refuse: Refuse = (param, message) =>
      context.addIssue({ code: "custom", path: [param], message, input: request });
    const value = request.max_output_tokens;
    const maxTokens = value === null ? null : { name: "max_output_tokens", value };
    const together = { ...request, n: 1, stream_options: null, response_format: request.text?.format?.form ?? null };
    refuseTogether(together, { prompts: 1, maxTokens }, refuse);
    if (request.include?.includes("file_search_call.results")) {
      refuse("include", "include holds file_search_call.results; annotations name the passages, without their text");
    }
  })
  .transform(({ input, instructions, tools, tool_choice, metadata, include, text, ...request }) => {
    const [search] = tool_choice === "none" ? [] : tools;
    const stores = [...new Set(search?.vector_store_ids)];
    const { form = null, told = { type: "text" as const } } = text?.format ?? {};
    const { chameleon, ...chat } = asGeneration({ ...request, response_format: form });
    const isReported = (request.top_logprobs ?? 0) > 0 || include?.includes(logprobsIncluded) === true;
    const system: ChatMessage[] = instructions === null ? [] : [{ role: "system", content: instructions }];
    return {
      messages: [...system, ...input],
      chat: {
        ...chat,
        chameleon: {
          ...chameleon,
          retrieve: chameleon.retrieve ?? (search ? Math.min(search.max_num_results, limits.retrievedPassages) : null),
          adapter: chameleon.adapter ?? (stores.length > 1 ? expertsOf(stores) : (stores[0] ?? null)),
        },
        n: 1,
        stream_options: null,
        logprobs: isReported,
        max_completion_tokens: request.max_output_tokens,
        max_tokens: null,
      },
      /** What the answer repeats. */
      settings: {
        instructions,
        max_output_tokens: request.max_output_tokens,
        metadata: metadata ?? {},
        text: { format: told },
        tool_choice: tool_choice === "none" ? ("none" as const) : ("auto" as const),
        tools: tools.map(({ type, vector_store_ids, max_num_results }) => ({
          type,
          vector_store_ids,
          max_num_results,
        })),
        top_logprobs: request.top_logprobs ?? 0,
      },
      /** What is looked for in the caller's documents; null: nothing. */
      query: search ? (input.findLast(({ role }) => role === "user")?.content ?? "") : null,
    };
  });

/** The form that the text is held to, and what the answer repeats of the format. */
function readTextFormat(value: unknown, context: z.RefinementCtx) {
  const form = readFormat(value, context, "text.format", null);
  const {
    type,
    name = "",
    schema,
  } = (value ?? {}) as { type?: string; name?: string; schema?: Record<string, unknown> };
  if (schema && type === "json_schema")
    return { form, told: { type: "json_schema" as const, name, schema, strict: true } };
  return { form, told: { type: type === "json_object" ? ("json_object" as const) : ("text" as const) } };
}

const expertsOf = (adapters: string[]) => ["base", ...adapters].map((id) => ({ id, weight: null }));

function readInput(value: unknown, context: z.RefinementCtx): ChatMessage[] {
  const refuse = refuser(context, value);
  if (typeof value === "string") return [{ role: "user", content: value }];
  if (!Array.isArray(value)) return refuse(`input is ${kindOf(value)}; it must be a text or a list of items`);
  const messages: unknown[] = [];
  for (const [i, item] of (value as unknown[]).entries()) {
    const { type = "message" } = (item ?? {}) as { type?: unknown };
    // An earlier answer's search: what it found is in no message.
    if (type === "file_search_call") continue;
    if (type !== "message") {
      const why = "only messages are read, as nothing is stored (store: false) and no function is called";
      return refuse(`input[${i}] is of type ${describe(type)}; ${why}`, [i]);
    }
    messages.push(item);
  }
  return readMessages(messages, context, "input");
}
