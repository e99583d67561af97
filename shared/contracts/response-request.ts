/**
 * `POST /v1/responses`, inward: its stateless part, as a chat's request and the settings that the answer repeats. What would change
 * the answer and is not built is refused by name; other unknown fields are ignored.
 */
import { z } from "zod";
import { type ChatMessage, readMessages } from "./chat.ts";
import { absentAs, describe, isString, kindOf, listOf, metadataSchema, refuser } from "./fields.ts";
import { asGeneration, generationFields, type Refuse, refuseTogether } from "./generation.ts";
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

const text = { type: "string", maxLength: limits.bodyBytes };
const contentPart = {
  type: "object",
  properties: { type: { enum: ["input_text", "output_text"] }, text },
  required: ["type", "text"],
};
const message = {
  type: "object",
  properties: {
    type: { const: "message" },
    role: { enum: ["user", "assistant", "system", "developer"] },
    content: { anyOf: [text, { type: "array", items: contentPart, maxItems: limits.messageParts }] },
  },
  required: ["role", "content"],
};
const inputSchema = {
  description: "A message of the user, or a conversation: messages, and items of earlier answers",
  anyOf: [text, { type: "array", items: message, minItems: 1, maxItems: limits.chatMessages }],
};

const searchSchema = {
  type: "object",
  properties: {
    type: { const: "file_search" },
    vector_store_ids: {
      type: "array",
      description: "Adapters of your own; empty: the one that `model` names, or the three nearest",
      items: { type: "string", maxLength: limits.adapterNameCharacters },
      maxItems: maxStores,
    },
    max_num_results: {
      type: "integer",
      description: `Passages; at most ${limits.retrievedPassages} come`,
      minimum: 1,
      maximum: maxResults,
      default: searchedPassages,
    },
  },
  required: ["type"],
};
const fileSearchSchema = z.object({
  type: z.literal("file_search"),
  vector_store_ids: absentAs(
    listOf({
      ...{ name: "vector_store_ids", of: "names", max: maxStores },
      ...{ isEntry: isString, rule: "it must be the name of an adapter" },
    }).refine((ids) => new Set(ids).size === ids.length, { error: "vector_store_ids holds a name twice" }),
    [] as string[],
    "",
  ),
  max_num_results: absentAs(z.int().min(1).max(maxResults), searchedPassages, ""),
  filters: refused("filters", "it is not built"),
  ranking_options: refused("ranking_options", "it is not built"),
});
type FileSearch = z.output<typeof fileSearchSchema>;
const toolsField = listOf({
  ...{ name: "tools", of: "tools", max: limits.responseTools },
  isEntry: (tool): tool is unknown => (tool as { type?: unknown } | null)?.type === "file_search",
  rule: "only a tool of type file_search is built",
}).pipe(z.array(fileSearchSchema).max(1));

const { n, stream_options, ...shared } = generationFields;

export const responseRequestSchema = z
  .object({
    ...shared,
    input: z.unknown().transform(readInput).meta(inputSchema),
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
    ).meta({
      anyOf: [{ type: "null" }, { type: "array", items: { type: "string", maxLength: 64 }, maxItems: limits.includes }],
    }),
    text: absentAs(
      z.object({ format: absentAs(z.object({ type: z.string().max(limits.formatCharacters) }), null, "`text` only") }),
      null,
      "How the text is written",
    ),
    tools: absentAs(
      toolsField,
      [] as FileSearch[],
      "`file_search` puts passages of your own documents into the prompt",
    ).meta({
      anyOf: [{ type: "null" }, { type: "array", items: searchSchema, maxItems: 1 }],
    }),
    tool_choice: z.unknown().optional().meta({ description: "`none` turns the search off" }),
    metadata: absentAs(metadataSchema, null, "Is repeated in the answer"),
    store: absentAs(z.boolean(), null, "Nothing is stored, whatever it is: the answer says `store: false`"),
    background: absentAs(z.boolean(), false, "Refused: an answer is sent with its request"),
    truncation: absentAs(z.enum(["auto", "disabled"]), "disabled" as const, "`disabled` only"),
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
    refuseTogether({ ...request, n: 1, stream_options: null }, { prompts: 1, maxTokens }, refuse);
    const { background, truncation, include, text, chameleon, tools } = request;
    if (background) refuse("background", "background is true; an answer is sent with its request");
    if (truncation === "auto") refuse("truncation", "truncation is auto; no conversation is shortened");
    if (include?.includes("file_search_call.results")) {
      refuse("include", "include holds file_search_call.results; annotations name the passages, without their text");
    }
    const format = text?.format?.type ?? "text";
    if (format !== "text") refuse("text.format", `text.format is of type ${describe(format)}; only text is supported`);
    if (tools.length > 0 && (chameleon?.retrieve ?? null) !== null) {
      refuse("tools", "tools holds file_search and chameleon.retrieve is set; they do the same, so set one of them");
    }
    if (tools[0]?.vector_store_ids.length > 0 && (chameleon?.adapter ?? null) !== null) {
      refuse("tools", "vector_store_ids and chameleon.adapter are set; both name adapters, so set one of them");
    }
  })
  .transform(({ input, instructions, tools, tool_choice, metadata, include, text, ...request }) => {
    const [search] = tool_choice === "none" ? [] : tools;
    const { chameleon, ...chat } = asGeneration(request);
    const isReported = (request.top_logprobs ?? 0) > 0 || include?.includes(logprobsIncluded) === true;
    const system: ChatMessage[] = instructions === null ? [] : [{ role: "system", content: instructions }];
    return {
      messages: [...system, ...input],
      chat: {
        ...chat,
        chameleon: search ? { ...chameleon, ...searchedBy(search) } : chameleon,
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
        text: { format: { type: "text" as const } },
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

/** The fields of the extension that a search stands for. */
function searchedBy({ vector_store_ids: ids, max_num_results }: FileSearch) {
  const listed = ["base", ...ids].map((id) => ({ id, weight: null }));
  return {
    retrieve: Math.min(max_num_results, limits.retrievedPassages),
    ...(ids.length > 0 && { adapter: ids.length > 1 ? listed : ids[0] }),
  };
}

function readInput(value: unknown, context: z.RefinementCtx): ChatMessage[] {
  const refuse = refuser(context, value);
  if (typeof value === "string") return [{ role: "user", content: value }];
  if (!Array.isArray(value)) return refuse(`input is ${kindOf(value)}; it must be a text or a list of items`);
  const messages: unknown[] = [];
  for (const [i, item] of (value as unknown[]).entries()) {
    const { type = "message", content } = (item ?? {}) as { type?: unknown; content?: unknown };
    // An earlier answer's search: what it found is in no message.
    if (type === "file_search_call") continue;
    if (type === "item_reference") {
      return refuse(`input[${i}] is an item_reference; nothing is stored here, so send the item (store: false)`, [i]);
    }
    if (type !== "message") return refuse(`input[${i}] is of type ${describe(type)}; only messages are built`, [i]);
    messages.push(Array.isArray(content) ? { ...(item as object), content: content.map(asChatPart) } : item);
  }
  return readMessages(messages, context, "input");
}

/** A part of a message's content as a chat has it. */
function asChatPart(part: unknown): unknown {
  const { type } = (part ?? {}) as { type?: unknown };
  return type === "input_text" || type === "output_text" ? { ...(part as object), type: "text" } : part;
}
