/**
 * `POST /v1/chat/completions`, inward, as far as it is served here: text in, text out. What would change the answer and is
 * not built (tools, images, sound) is refused by name; other unknown fields are ignored.
 */
import * as z from "zod";
import { absentAs, describe, kindOf, listOf, refuser } from "./fields.ts";
import { asGeneration, generationFields, type Refuse, refuseTogether } from "./generation.ts";
import { limits } from "./limits.ts";

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

const roles: Record<string, ChatMessage["role"]> = {
  system: "system",
  developer: "system",
  user: "user",
  assistant: "assistant",
};

/** The last two are those of a response's input. */
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
      role: { enum: Object.keys(roles), description: "`developer` is `system`" },
      content: {
        anyOf: [
          { type: "string", maxLength: limits.bodyBytes },
          { type: "array", items: textPart, maxItems: limits.messageParts },
        ],
      },
    },
    required: ["role", "content"],
  },
};

const modalityList = listOf({
  ...{ name: "modalities", of: "modalities", max: limits.modalities },
  ...{ isEntry: (entry): entry is "text" => entry === "text", rule: "only text is supported" },
});
const modalitiesSchema = {
  anyOf: [{ type: "null" }, { type: "array", items: { const: "text" }, maxItems: limits.modalities }],
};

const maxTokens = z.int().min(1);
/** Refused where they are set, so of any type. */
const unbuilt = (description: string) =>
  z
    .unknown()
    .optional()
    .meta({ description: `Not built: ${description}` });

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
    modalities: absentAs(modalityList, null, "`text` only").meta(modalitiesSchema),
    tools: unbuilt("calling tools"),
    tool_choice: unbuilt("calling tools; `none` and `auto` pass"),
    functions: unbuilt("calling functions"),
    function_call: unbuilt("calling functions; `none` and `auto` pass"),
    audio: unbuilt("sound"),
    web_search_options: unbuilt("searching the web"),
  })
  .superRefine((request, context) => {
    const refuse: Refuse = (param, message) =>
      context.addIssue({ code: "custom", path: [param], message, input: request });
    const name = request.max_completion_tokens === null ? "max_tokens" : "max_completion_tokens";
    const value = request[name];
    refuseTogether(request, { prompts: 1, maxTokens: value === null ? null : { name, value } }, refuse);
    if (request.top_logprobs !== null && !request.logprobs) refuse("top_logprobs", "top_logprobs needs logprobs: true");
    refuseUnbuilt(request, refuse);
  })
  .transform(asGeneration);

export type ChatRequest = z.infer<typeof chatRequestSchema>;

function refuseUnbuilt(request: Record<string, unknown>, refuse: Refuse) {
  for (const field of ["tools", "functions"]) {
    const value = request[field];
    const isEmpty = value === undefined || value === null || (Array.isArray(value) && value.length === 0);
    if (!isEmpty) refuse(field, `${field} is set; calling them is not built`);
  }
  for (const field of ["tool_choice", "function_call"]) {
    const value = request[field] ?? "none";
    if (value !== "none" && value !== "auto")
      refuse(field, `${field} is ${describe(value)}; calling them is not built`);
  }
  for (const field of ["audio", "web_search_options"]) {
    if ((request[field] ?? null) !== null) refuse(field, `${field} is set; it is not built`);
  }
}

/** A conversation; `name` is its place in the request. */
export function readMessages(value: unknown, context: z.RefinementCtx, name = "messages"): ChatMessage[] {
  const read = messagesIn(value, name);
  return "fault" in read ? refuser(context, value)(read.fault, read.path) : read.messages;
}

/** The messages of a list called `name`, or what is wrong with it and where. */
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
  for (const [i, message] of (value as unknown[]).entries()) {
    const read = readMessage(message, `${name}[${i}]`);
    if (typeof read === "string") return fault(read, [i]);
    messages.push(read);
  }
  return { messages };
}

/** A message, or what is wrong with it; `at` is its place. */
function readMessage(value: unknown, at: string): ChatMessage | string {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return `${at} is ${kindOf(value)}; it must be an object with role and content`;
  }
  const { role, content, tool_calls, function_call } = value as Record<string, unknown>;
  if (role === "tool" || role === "function") return `${at} has the role ${role}; calling tools is not built`;
  const known = typeof role === "string" && Object.hasOwn(roles, role) ? roles[role] : null;
  if (!known) return `${at}.role is ${describe(role)}; it must be ${Object.keys(roles).join(", ")}`;
  if ((tool_calls ?? function_call ?? null) !== null) return `${at} holds calls of tools, which are not built`;
  if (typeof content === "string") return { role: known, content };
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
  return { role: known, content: texts.join("") };
}
