/** Requests of `POST /v1/responses`. Each becomes a chat request, and settings that the answer repeats. */
import * as z from "zod";
import { type ChatMessage, messagesSchema, readMessages } from "./chat.ts";
import { absentAs, describe, kindOf, listOf, metadataSchema, refused, refuser } from "./fields.ts";
import { asGeneration, generationFields, type Refuse, readFormat, refuseTogether } from "./generation.ts";
import { limits } from "./limits.ts";
import { askedCalls, functionFields, hasCalls, toolChoiceField, toolFields, toolsFault, toolsField } from "./tools.ts";

const logprobsIncluded = "message.output_text.logprobs";
const nothingStored = "nothing is stored here, so send the whole conversation as input";
/** Default of `max_num_results`, and OpenAI's maximum. */
const [searchedPassages, maxResults] = [2, 50];

const fileSearchSchema = z.object({
  type: z.literal("file_search"),
  vector_store_ids: absentAs(
    listOf("vector_store_ids", z.string().max(limits.adapterNameCharacters), { max: limits.mixtureAdapters }),
    [] as string[],
    "Adapters of your own",
  ),
  max_num_results: absentAs(z.int().min(1).max(maxResults), searchedPassages, ""),
  filters: refused("filters", "it is not built"),
  ranking_options: refused("ranking_options", "it is not built"),
});
const isFunction = z.literal("function");
const toolSchema = z.discriminatedUnion("type", [z.object({ type: isFunction, ...functionFields }), fileSearchSchema], {
  error: ({ input }) =>
    `a tool is of type ${describe((input as { type?: unknown } | null)?.type)}; only function and file_search are built`,
});
type Tools = z.output<typeof toolSchema>[];
const functionsOf = (tools: Tools) => tools.filter((tool) => tool.type === "function");
const searchesOf = (tools: Tools) => tools.filter((tool) => tool.type === "file_search");
const formatName = { type: "string", maxLength: limits.formatCharacters };
const formatSchema = {
  type: "object",
  properties: { type: { enum: ["text", "json_object", "json_schema"] }, name: formatName, schema: { type: "object" } },
  required: ["type"],
};

const { n, stream_options, prompt_logprobs, ...shared } = generationFields;

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
      listOf("include", z.string().max(limits.formatCharacters), { max: limits.includes }),
      null,
      `\`${logprobsIncluded}\` tells each token's logprob, \`file_search_call.results\` is refused, others change nothing`,
    ),
    text: absentAs(
      z.object({
        format: absentAs(
          z.unknown().transform(readTextFormat).meta(formatSchema),
          null,
          "As `response_format` of a chat completion, but that `name` and `schema` are in itself",
        ),
      }),
      null,
      "How the text is written",
    ),
    tools: toolsField(
      toolSchema,
      "Functions that the answer may call; and `file_search`, at most once, which puts up to four passages of your own documents into the prompt, of the adapters that `vector_store_ids` names, else of those that the answer considers",
    ),
    tool_choice: toolChoiceField(
      z.union([
        z.object({ type: isFunction, name: functionFields.name }).transform(({ name }) => ({ name })),
        z.object({ type: z.literal("file_search") }).transform(() => "auto" as const),
      ]),
    ),
    parallel_tool_calls: toolFields.parallel_tool_calls,
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
    const { form } = askedCalls(functionsOf(request.tools), request, formOf(request.text));
    const together = { ...request, n: 1, stream_options: null, response_format: form };
    refuseTogether(together, { prompts: 1, maxTokens }, refuse);
    const searches = searchesOf(request.tools);
    if (searches.length > 1) refuse("tools", `tools has ${searches.length} of type file_search, the maximum is 1`);
    const fault = toolsFault(functionsOf(request.tools), request.tool_choice, form);
    if (fault) refuse(...fault);
    const { compare = false, sources = false } = request.chameleon ?? {};
    if (hasCalls(form) && (compare || sources || isReported(request))) {
      refuse(
        "tools",
        "tools has functions, and calls in a response have no place for logprobs, compare and sources; those of a chat completion have",
      );
    }
    if (request.include?.includes("file_search_call.results")) {
      refuse("include", "include holds file_search_call.results; annotations name the passages, without their text");
    }
  })
  .transform(({ input, instructions, metadata, include, text, ...request }) => {
    const { tools, tool_choice, parallel_tool_calls, ...generation } = request;
    const [search] = tool_choice === "none" ? [] : searchesOf(tools);
    const stores = [...new Set(search?.vector_store_ids)];
    const told = text?.format?.told ?? { type: "text" as const };
    const calls = askedCalls(functionsOf(tools), request, formOf(text));
    const { chameleon, ...chat } = asGeneration({ ...generation, response_format: calls.form });
    const system: ChatMessage[] = instructions === null ? [] : [{ role: "system", content: instructions }];
    return {
      conversation: { messages: [...system, ...input], toolsText: calls.text },
      chat: {
        ...chat,
        chameleon: {
          ...chameleon,
          retrieve: chameleon.retrieve ?? (search ? Math.min(search.max_num_results, limits.retrievedPassages) : null),
          adapter: chameleon.adapter ?? (stores.length > 1 ? expertsOf(stores) : (stores[0] ?? null)),
        },
        n: 1,
        stream_options: null,
        prompt_logprobs: null,
        logprobs: isReported({ ...request, include }),
        max_completion_tokens: request.max_output_tokens,
        max_tokens: null,
      },
      settings: {
        instructions,
        max_output_tokens: request.max_output_tokens,
        metadata: metadata ?? {},
        text: { format: told },
        tool_choice: typeof tool_choice === "string" ? tool_choice : { type: "function" as const, ...tool_choice },
        parallel_tool_calls: calls.text !== null && parallel_tool_calls,
        tools: [
          ...functionsOf(tools).map((tool) => ({ ...tool, parameters: tool.parameters.schema, strict: true })),
          ...searchesOf(tools).map(({ type, vector_store_ids, max_num_results }) => ({
            ...{ type, vector_store_ids, max_num_results },
          })),
        ],
        top_logprobs: request.top_logprobs ?? 0,
      },
      query: search ? (input.findLast(({ role }) => role === "user")?.content ?? "") : null,
    };
  });

const isReported = ({ top_logprobs, include }: { top_logprobs: number | null; include: string[] | null }) =>
  (top_logprobs ?? 0) > 0 || include?.includes(logprobsIncluded) === true;

const formOf = (text: { format: { form: string | null } | null } | null) => text?.format?.form ?? null;

/** Returns the form of the answer's text, and the fields of `text.format` that the answer repeats. */
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
  /** Calls of the current assistant message; null if the last item was no call. */
  let calls: unknown[] | null = null;
  for (const [i, item] of (value as unknown[]).entries()) {
    if (typeof item !== "object" || item === null) return refuse(`input[${i}] is ${kindOf(item)}; it must be an item`);
    const { type = "message", call_id, ...fields } = item as Record<string, unknown>;
    // A search of an earlier answer. No message has its passages.
    if (type === "file_search_call") continue;
    if (type === "function_call") {
      const call = { id: call_id, type: "function", function: fields };
      if (calls === null) {
        // A call belongs to the assistant message directly before the call. Without such a message, a new one is made.
        const last = messages.at(-1) as { role?: unknown; tool_calls?: unknown } | null | undefined;
        const isTurn = last?.role === "assistant" && last.tool_calls === undefined;
        calls = [];
        messages.push({
          ...(isTurn ? (messages.pop() as object) : { role: "assistant", content: null }),
          tool_calls: calls,
        });
      }
      calls.push(call);
      continue;
    }
    calls = null;
    if (type === "function_call_output") {
      messages.push({ role: "tool", content: fields.output, tool_call_id: call_id });
    } else if (type === "message") {
      messages.push(item);
    } else {
      const why = "only messages and calls of functions are read, as nothing is stored (store: false)";
      return refuse(`input[${i}] is of type ${describe(type)}; ${why}`, [i]);
    }
  }
  return readMessages(messages, context, "input");
}
