/** How `POST /v1/completions` writes choices. */
import type { CompletionChoice, CompletionLogprobs } from "../../shared/contracts/responses.ts";
import type { ReportedToken } from "./choice.ts";
import type { Form } from "./response.ts";
import { tokenText } from "./token-text.ts";

export const completionForm: Form<CompletionChoice, CompletionChoice> = {
  idPrefix: "cmpl-",
  object: "text_completion",
  chunkObject: "text_completion",
  choice: ({ index, text, reported, finishReason }) => ({
    index,
    text,
    logprobs: reported && logprobsOf(reported),
    finish_reason: finishReason,
  }),
  chunkChoice: ({ planned, text, logprobs, done }) => ({
    index: planned.index,
    text,
    logprobs: logprobs?.length ? logprobsOf(logprobs) : null,
    finish_reason: done?.finishReason ?? null,
  }),
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
