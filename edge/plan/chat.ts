/** Turns a conversation into a prompt, and a chat request into a completion's fields. Pure. */
import type { ChatMessage, ChatRequest } from "../../shared/contracts/chat.ts";
import { hasAnyText } from "../../shared/contracts/tools.ts";
import { invalidRequest } from "../../shared/errors.ts";
import type { Span } from "../../shared/math/evidence.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { overlong, type TokenizedPrompt } from "./encode.ts";
import { type Caller, contextBound, type GenerationRequest, type Plan, planGeneration } from "./plan.ts";

type ChatLimits = Pick<ChatRequest, "logprobs" | "top_logprobs" | "max_completion_tokens" | "max_tokens" | "sampling">;

export function generationOf<Request extends ChatLimits>(request: Request, { chatTemplate }: Artifacts) {
  const { logprobs, top_logprobs, max_completion_tokens, max_tokens, sampling } = request;
  return {
    ...request,
    echo: false,
    max_tokens: max_completion_tokens ?? max_tokens ?? Number.POSITIVE_INFINITY,
    logprobs: logprobs ? (top_logprobs ?? 0) : null,
    // `stop` gets the texts that end this model's messages, except for JSON (where they are ordinary text) or `ignore_eos`.
    sampling:
      sampling.ignore_eos || (sampling.text_form && !hasAnyText(sampling.text_form))
        ? sampling
        : { ...sampling, stop: [...(sampling.stop ?? []), ...chatTemplate.stops] },
  };
}

export interface Conversation {
  messages: readonly ChatMessage[];
  /** Text about the tools, appended to the system message; null or absent: no tools. */
  toolsText?: string | null;
}

export function planChat(
  conversation: Conversation,
  request: GenerationRequest,
  artifacts: Artifacts,
  caller: Caller,
  param?: string,
): Promise<Plan> {
  const read = () => [tokenizedChat(conversation, artifacts, caller.writtenMs ?? caller.now(), param)];
  return planGeneration(request, read, artifacts, caller);
}

export function tokenizedChat(
  { messages, toolsText = null }: Conversation,
  artifacts: Artifacts,
  nowMs: number,
  param?: string,
): TokenizedPrompt {
  const promptIds = encodeMessages(withTools(messages, toolsText), artifacts, nowMs, param);
  const subjectIds = subjectOf(messages, artifacts);
  const found = contentSpans(messages, promptIds, artifacts.tokenizer);
  const question = found[messages.findLastIndex(({ role }) => role === "user")];
  const spans = found.filter((span) => span !== null);
  return { promptIds, ...(subjectIds.length > 0 && { subjectIds }), spans, ...(question && { question }) };
}

/** The tokens that decide the nearest centroids. The template's text is left out, because it is the same in all chats. */
export function subjectOf(messages: readonly ChatMessage[], { tokenizer, manifest }: Artifacts): number[] {
  const text = messages
    .map(({ content }) => content)
    .filter((content) => content !== "")
    .join("\n");
  return tokenizer.encode(text, manifest.embedding.prefixTokens);
}

function withTools(messages: readonly ChatMessage[], toolsText: string | null): readonly ChatMessage[] {
  if (toolsText === null) return messages;
  const [first, ...others] = messages;
  if (first.role !== "system") return [{ role: "system", content: toolsText }, ...messages];
  return [{ role: "system", content: `${first.content}\n\n${toolsText}` }, ...others];
}

/**
 * For each message, the span of the prompt's tokens that end within its trimmed content; null if the template has changed the content. A
 * very short content may be found in the template's own text.
 */
function contentSpans(
  messages: readonly ChatMessage[],
  promptIds: readonly number[],
  tokenizer: Tokenizer,
): (Span | null)[] {
  // One character for each byte. No message contains a special token, so a special token becomes a character that no byte has.
  const decoder = new TextDecoder("windows-1252");
  const pieces = promptIds.map((id) => (tokenizer.isSpecial(id) ? "\u0100" : decoder.decode(tokenizer.pieceOf(id))));
  const text = pieces.join("");
  let token = 0;
  let tokenEnd = pieces[0]?.length ?? 0;
  let after = 0;
  return messages.map((message) => {
    const trimmed = message.content.trim();
    if (trimmed === "" || trimmed.length > text.length) return null;
    const content = decoder.decode(new TextEncoder().encode(trimmed));
    const start = text.indexOf(content, after);
    if (start < 0) return null;
    after = start + content.length;
    while (tokenEnd <= start) tokenEnd += pieces[++token].length;
    const first = token;
    while (token < pieces.length && tokenEnd <= after) tokenEnd += pieces[++token]?.length ?? 1;
    return token > first ? [first, token] : null;
  });
}

/** Encodes messages by the model's chat template. Throws invalid_request or context_length_exceeded, both with `param`. */
export function encodeMessages(
  messages: readonly ChatMessage[],
  artifacts: Artifacts,
  nowMs: number,
  param = "messages",
): number[] {
  const bound = contextBound(param, "The conversation's prompt", artifacts);
  const refuse = (message: string, cause?: unknown) => invalidRequest(message, param, cause);
  let promptIds: number[];
  try {
    promptIds = artifacts.chatTemplate.encode(messages, nowMs, bound.maxTokens);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.slice(0, 200) : "no reason given";
    throw refuse(`the model's chat template refuses these messages: ${reason}`, cause);
  }
  if (promptIds.length === 0) throw refuse("the model's chat template makes no text of these messages");
  if (promptIds.length > bound.maxTokens) throw overlong(bound, bound.single, null);
  return promptIds;
}
