/** From a checked chat request to the sequences that serve it. Pure. */
import type { ChatMessage, ChatRequest } from "../../shared/contracts/chat.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Span } from "../../shared/math/evidence.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { overlong } from "./encode.ts";
import {
  type Caller,
  contextBound,
  type GenerationRequest,
  type Plan,
  planGeneration,
  type TokenizedPrompt,
} from "./plan.ts";

/** A chat request with a completion's names. */
export function generationOf(request: Omit<ChatRequest, "messages">, { chatTemplate }: Artifacts) {
  const { logprobs, top_logprobs, max_completion_tokens, max_tokens, sampling } = request;
  return {
    ...request,
    echo: false,
    max_tokens: max_completion_tokens ?? max_tokens ?? Number.POSITIVE_INFINITY,
    logprobs: logprobs ? (top_logprobs ?? 0) : null,
    // A template stops at what its model writes where others write the end of text.
    sampling: sampling.ignore_eos ? sampling : { ...sampling, template_stops: [...chatTemplate.stops] },
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
  const spans = saidSpans(messages, promptIds, tokenizer);
  return { promptIds, ...(subjectIds.length > 0 && { subjectIds }), spans };
}

/**
 * Where the prompt has what the messages say: the tokens that end within it. Each message is looked for after the one
 * before; a template may trim it, and what it changes otherwise is not found. A message of few letters may be found in the
 * template's own words, which costs a token or two of evidence.
 */
function saidSpans(messages: readonly ChatMessage[], promptIds: readonly number[], tokenizer: Tokenizer): Span[] {
  // One character a byte. No message writes a special token, so that gets a character which no byte has.
  const decoder = new TextDecoder("windows-1252");
  const pieces = promptIds.map((id) =>
    id === tokenizer.endOfTextId ? "\u0100" : decoder.decode(tokenizer.pieceOf(id)),
  );
  const text = pieces.join("");
  const spans: Span[] = [];
  let token = 0;
  let tokenEnd = pieces[0]?.length ?? 0;
  let after = 0;
  for (const { content } of messages) {
    const trimmed = content.trim();
    if (trimmed === "" || trimmed.length > text.length) continue;
    const said = decoder.decode(new TextEncoder().encode(trimmed));
    const start = text.indexOf(said, after);
    if (start < 0) continue;
    after = start + said.length;
    while (tokenEnd <= start) tokenEnd += pieces[++token].length;
    const first = token;
    while (token < pieces.length && tokenEnd <= after) tokenEnd += pieces[++token]?.length ?? 1;
    if (token > first) spans.push([first, token]);
  }
  return spans;
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
