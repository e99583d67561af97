/** How `POST /v1/chat/completions` writes choices. */
import type { ChatChoice, ChatChunkChoice, ChatLogprobs } from "../../shared/contracts/responses.ts";
import type { ReportedToken } from "./choice.ts";
import type { Form } from "./response.ts";
import { tokenText } from "./token-text.ts";

const role = "assistant" as const;

export const chatForm: Form<ChatChoice, ChatChunkChoice> = {
  idPrefix: "chatcmpl-",
  object: "chat.completion",
  chunkObject: "chat.completion.chunk",
  choice: ({ index, text, reported, finishReason }) => ({
    index,
    message: { role, content: text, refusal: null },
    logprobs: reported && logprobsOf(reported),
    // A whole response has only choices that are done.
    finish_reason: finishReason ?? "length",
  }),
  chunkChoice: ({ planned, text, logprobs, done }, isFirst) => ({
    index: planned.index,
    delta: { ...(isFirst && { role }), ...((isFirst || text !== "") && { content: text }) },
    logprobs: logprobs?.length ? logprobsOf(logprobs) : null,
    finish_reason: done?.finishReason ?? null,
  }),
};

function logprobsOf(tokens: readonly ReportedToken[]): ChatLogprobs {
  const content = tokens.map(({ piece, logprob, top }) => ({
    ...alternativeOf(piece, logprob ?? 0),
    top_logprobs: top.map((one) => alternativeOf(one.piece, one.logprob)),
  }));
  return { content, refusal: null };
}

function alternativeOf(piece: Uint8Array, logprob: number) {
  return { token: tokenText(piece), logprob, bytes: [...piece] };
}
