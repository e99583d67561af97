/** The shapes of choices: of `POST /v1/completions` and of `POST /v1/chat/completions`. */
import type { ChatLogprobs, CompletionChoice, CompletionLogprobs } from "../../shared/contracts/responses.ts";
import { type ChoicePart, type ReportedToken, tokenText } from "./choice.ts";
import type { Form } from "./response.ts";

function completionChoice({ planned, text, logprobs, done }: ChoicePart): CompletionChoice {
  const finish_reason = done?.finishReason ?? null;
  return { index: planned.index, text, logprobs: logprobs && logprobsOf(logprobs), finish_reason };
}

const completionForm: Form = {
  idPrefix: "cmpl-",
  object: "text_completion",
  chunkObject: "text_completion",
  choice: completionChoice,
  chunkChoice: (part) => completionChoice({ ...part, logprobs: part.logprobs?.length ? part.logprobs : null }),
};

function logprobsOf(tokens: readonly ReportedToken[]): CompletionLogprobs {
  return {
    tokens: tokens.map(({ piece }) => tokenText(piece)),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(topOf),
    text_offset: tokens.map(({ offset }) => offset),
  };
}

/** The likeliest tokens and, as OpenAI promises, the token itself. */
function topOf({ piece, logprob, top }: ReportedToken): Record<string, number> {
  const itself = logprob === null ? [] : [{ piece, logprob }];
  return Object.fromEntries([...top, ...itself].map((one) => [tokenText(one.piece), one.logprob]));
}

const chatForm: Form = {
  idPrefix: "chatcmpl-",
  object: "chat.completion",
  chunkObject: "chat.completion.chunk",
  choice: ({ planned, text, logprobs, done }) => ({
    index: planned.index,
    message: { role: "assistant", content: text, refusal: null },
    logprobs: logprobs && chatLogprobsOf(logprobs),
    // Every choice of a whole response is done; the type does not know it.
    finish_reason: done?.finishReason ?? "length",
  }),
  chunkChoice: ({ planned, text, logprobs, done }, isFirst) => ({
    index: planned.index,
    delta: { ...(isFirst && { role: "assistant" as const }), ...((isFirst || text !== "") && { content: text }) },
    logprobs: logprobs?.length ? chatLogprobsOf(logprobs) : null,
    finish_reason: done?.finishReason ?? null,
  }),
};

function chatLogprobsOf(tokens: readonly ReportedToken[]): ChatLogprobs {
  const content = tokens.map(({ piece, logprob, top }) => ({
    ...alternativeOf(piece, logprob ?? 0),
    top_logprobs: top.map((one) => alternativeOf(one.piece, one.logprob)),
  }));
  return { content, refusal: null };
}

function alternativeOf(piece: Uint8Array, logprob: number) {
  return { token: tokenText(piece), logprob, bytes: [...piece] };
}

export const forms = { completion: completionForm, chat: chatForm };
