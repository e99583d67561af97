/** From a checked chat request to the sequences that serve it. Pure. */
import type { ChatMessage, ChatRequest } from "../../shared/contracts/chat.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Artifacts } from "../assign/artifacts.ts";
import { overlong } from "../assign/encode.ts";
import {
  type Caller,
  contextBound,
  type GenerationRequest,
  type Plan,
  planGeneration,
  type TokenizedPrompt,
} from "./plan.ts";

/** A chat request in a completion's words. */
export function generationOf(request: Omit<ChatRequest, "messages">, { chatTemplate }: Artifacts) {
  const { logprobs, top_logprobs, max_completion_tokens, max_tokens, stop } = request;
  return {
    ...request,
    echo: false,
    max_tokens: max_completion_tokens ?? max_tokens ?? Number.POSITIVE_INFINITY,
    logprobs: logprobs ? (top_logprobs ?? 0) : null,
    stop: [...stop, ...chatTemplate.stops],
  };
}

/** As `planCompletion`, for a conversation. */
export function planChat(
  messages: readonly ChatMessage[],
  request: GenerationRequest,
  artifacts: Artifacts,
  caller: Caller,
): Plan {
  return planGeneration(request, () => [tokenized(messages, artifacts, caller.now())], artifacts, caller);
}

/**
 * Assigned by what is said alone: the template's own words are the same for every conversation, and would lead all of
 * them to one centroid.
 */
function tokenized(
  messages: readonly ChatMessage[],
  { chatTemplate, tokenizer, manifest }: Artifacts,
  nowMs: number,
): TokenizedPrompt {
  const { prefixTokens } = manifest.embedding;
  const bound = contextBound("messages", "The conversation's prompt", manifest);
  const promptIds = encoded(messages, chatTemplate, nowMs, bound.most);
  if (promptIds.length > bound.most) throw overlong(bound, bound.single, null);
  const subjectIds: number[] = [];
  for (const { content } of messages) {
    if (subjectIds.length >= prefixTokens) break;
    const text = subjectIds.length > 0 ? `\n${content}` : content;
    subjectIds.push(...tokenizer.encode(text, prefixTokens).slice(0, prefixTokens));
  }
  return subjectIds.length > 0 ? { promptIds, subjectIds } : { promptIds };
}

function encoded(
  messages: readonly ChatMessage[],
  template: Artifacts["chatTemplate"],
  nowMs: number,
  most: number,
): number[] {
  const refuse = (message: string, cause?: unknown) =>
    new ServiceError("invalid_request", `Invalid request: ${message}.`, { param: "messages", cause });
  let promptIds: number[];
  try {
    promptIds = template.encode(messages, nowMs, most);
  } catch (cause) {
    const said = cause instanceof Error ? cause.message.slice(0, 200) : "no reason given";
    throw refuse(`the model's chat template refuses these messages: ${said}`, cause);
  }
  if (promptIds.length === 0) throw refuse("the model's chat template makes no text of these messages");
  return promptIds;
}
