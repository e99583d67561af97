/** Requests of `POST /v1/chat/completions`. A field that is not supported is refused if it would change the answer. */
import * as z from "zod";
import { absentAs, describe, isString, kindOf, listOf, refused, refuser } from "./fields.ts";
import { asGeneration, generationFields, type Refuse, refuseTogether } from "./generation.ts";
import { limits } from "./limits.ts";
import { askedCalls, callText, isFunctionName, toolFields, toolsFault } from "./tools.ts";

export interface ChatMessage {
  /** A `tool` message holds results of function calls. Chat templates see such a message as the user's. */
  role: "system" | "user" | "assistant" | "tool";
  /** Text, with function calls and their results in the format of tools.ts. */
  content: string;
}

const roles: Record<string, ChatMessage["role"]> = {
  system: "system",
  developer: "system",
  user: "user",
  assistant: "assistant",
  tool: "tool",
};

const textTypes = ["text", "input_text", "output_text"];
const textPart = {
  type: "object",
  properties: { type: { enum: textTypes }, text: { type: "string", maxLength: limits.bodyBytes } },
  required: ["type", "text"],
};
export const messagesSchema = {
  type: "array",
  description: "The conversation; the model's chat template makes the prompt of it",
  minItems: 1,
  maxItems: limits.chatMessages,
  items: {
    type: "object",
    properties: {
      role: { enum: Object.keys(roles), description: "`developer` is `system`; `tool` has the result of a call" },
      content: {
        description: "May be null beside `tool_calls`",
        anyOf: [
          { type: "null" },
          { type: "string", maxLength: limits.bodyBytes },
          { type: "array", items: textPart, maxItems: limits.messageParts },
        ],
      },
      tool_calls: {
        ...{ type: "array", items: { type: "object" }, maxItems: limits.toolCalls },
        description: 'Of the assistant: `{id, type: "function", function: {name, arguments}}`',
      },
      tool_call_id: { type: "string", maxLength: limits.bodyBytes, description: "Of a result: the id of its call" },
    },
    required: ["role"],
    anyOf: [{ required: ["content"] }, { required: ["tool_calls"] }],
  },
};

const maxTokens = z.int().min(1);

export const chatRequestSchema = z
  .object({
    ...generationFields,
    messages: z.unknown().transform(readMessages).meta(messagesSchema),
    max_completion_tokens: absentAs(maxTokens, null, "Most tokens of each choice; absent, all that the context holds"),
    max_tokens: absentAs(maxTokens, null, "The same by its old name; `max_completion_tokens` goes first"),
    logprobs: absentAs(z.boolean(), false, "Tell each token's logprob"),
    top_logprobs: absentAs(
      z.int().min(0).max(limits.chatLogprobs),
      null,
      "And those of so many likeliest tokens; needs `logprobs`",
    ),
    modalities: absentAs(listOf("modalities", z.literal("text"), { max: limits.modalities }), null, "`text` only"),
    ...toolFields,
    functions: refused("functions", "it is not built; tools is", (value) => Array.isArray(value) && value.length === 0),
    function_call: refused("function_call", "it is not built; tool_choice is", (value) =>
      ["none", "auto"].includes(value as string),
    ),
    audio: refused("audio", "it is not built"),
    web_search_options: refused("web_search_options", "it is not built"),
  })
  .superRefine((request, context) => {
    const refuse: Refuse = (param, message) =>
      context.addIssue({ code: "custom", path: [param], message, input: request });
    const name = request.max_completion_tokens === null ? "max_tokens" : "max_completion_tokens";
    const value = request[name];
    const { form } = askedCalls(request.tools, request, request.response_format);
    const together = { ...request, response_format: form };
    refuseTogether(together, { prompts: 1, maxTokens: value === null ? null : { name, value } }, refuse);
    if (request.top_logprobs !== null && !request.logprobs) refuse("top_logprobs", "top_logprobs needs logprobs: true");
    const fault = toolsFault(request.tools, request.tool_choice, form);
    if (fault) refuse(...fault);
  })
  .transform(({ tools, tool_choice, parallel_tool_calls, ...request }) => {
    const { text, form } = askedCalls(tools, { tool_choice, parallel_tool_calls }, request.response_format);
    return { ...asGeneration({ ...request, response_format: form }), toolsText: text };
  });

export type ChatRequest = z.infer<typeof chatRequestSchema>;

export function readMessages(value: unknown, context: z.RefinementCtx, name = "messages"): ChatMessage[] {
  const read = messagesIn(value, name);
  return "fault" in read ? refuser(context, value)(read.fault, read.path) : read.messages;
}

/** Reads the list of messages in the field `name`. Returns the fault of the first bad message, and its index. */
export function messagesIn(
  value: unknown,
  name: string,
): { messages: ChatMessage[] } | { fault: string; path: number[] } {
  const fault = (text: string, path: number[] = []) => ({ fault: text, path });
  if (!Array.isArray(value)) return fault(`${name} is ${kindOf(value)}; it must be a list of messages`);
  if (value.length === 0) return fault(`${name} is an empty list; at least one is needed`);
  if (value.length > limits.chatMessages) {
    return fault(`${name} has ${value.length} entries, the maximum is ${limits.chatMessages}`);
  }
  const messages: ChatMessage[] = [];
  const callIds = new Set<string>();
  for (const [i, message] of (value as unknown[]).entries()) {
    const read = readMessage(message, `${name}[${i}]`, callIds);
    if (typeof read === "string") return fault(read, [i]);
    const last = messages.at(-1);
    if (read.role === "tool" && last?.role === "tool") last.content += `\n${read.content}`;
    else messages.push(read);
  }
  return { messages };
}

/**
 * Returns a text that describes the fault if the message is bad. `at`: path of the message. `callIds`: ids of calls in earlier messages.
 */
function readMessage(value: unknown, at: string, callIds: Set<string>): ChatMessage | string {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return `${at} is ${kindOf(value)}; it must be an object with role and content`;
  }
  const { role, content, tool_calls, function_call, tool_call_id } = value as Record<string, unknown>;
  const known = typeof role === "string" && Object.hasOwn(roles, role) ? roles[role] : null;
  if (!known) return `${at}.role is ${describe(role)}; it must be ${Object.keys(roles).join(", ")}`;
  if ((function_call ?? null) !== null) return `${at}.function_call is set, which is not built; tool_calls is`;
  if ((tool_calls ?? null) !== null) {
    if (known !== "assistant")
      return `${at}.tool_calls is set, and the role is ${known}; only the assistant calls tools`;
    const calls = readCalls(tool_calls, `${at}.tool_calls`, callIds);
    if (typeof calls === "string") return calls;
    const text = readContent(calls.length > 0 ? (content ?? "") : content, at);
    return typeof text === "string" ? text : { role: known, content: text.content + calls.join("\n") };
  }
  const read = readContent(content, at);
  if (typeof read === "string") return read;
  if (known !== "tool") return { role: known, ...read };
  if (!isString(tool_call_id) || !callIds.has(tool_call_id))
    return `${at}.tool_call_id is ${describe(tool_call_id)}; it must be the id of a call in a message before it`;
  return { role: known, content: `<tool_response>\n${read.content}\n</tool_response>` };
}

/** Returns each call as a text, or one text that describes the fault. Adds the calls' ids to `callIds`. */
function readCalls(value: unknown, at: string, callIds: Set<string>): string[] | string {
  if (!Array.isArray(value)) return `${at} is ${kindOf(value)}; it must be a list of calls`;
  if (value.length > limits.toolCalls) return `${at} has ${value.length} entries, the maximum is ${limits.toolCalls}`;
  const texts: string[] = [];
  for (const [i, call] of (value as unknown[]).entries()) {
    const { id, type, function: told } = (call ?? {}) as Record<string, unknown>;
    const { name, arguments: given } = (told ?? {}) as Record<string, unknown>;
    if (!isString(id) || type !== "function" || !isFunctionName(name) || !isString(given))
      return `${at}[${i}] is no call; it must be {id, type: "function", function: {name, arguments}}, the arguments as JSON in a string`;
    callIds.add(id);
    texts.push(callText(name, given));
  }
  return texts;
}

function readContent(content: unknown, at: string): { content: string } | string {
  if (typeof content === "string") return { content };
  if (!Array.isArray(content))
    return `${at}.content is ${kindOf(content)}; it must be a string or a list of text parts`;
  if (content.length > limits.messageParts) {
    return `${at}.content has ${content.length} parts, the maximum is ${limits.messageParts}`;
  }
  const texts: string[] = [];
  for (const [i, part] of (content as unknown[]).entries()) {
    const { type, text } = (typeof part === "object" && part !== null ? part : {}) as Record<string, unknown>;
    if (!textTypes.some((one) => one === type))
      return `${at}.content[${i}] is of type ${describe(type)}; only text is supported`;
    if (typeof text !== "string") return `${at}.content[${i}].text is ${kindOf(text)}; it must be a string`;
    texts.push(text);
  }
  return { content: texts.join("") };
}
