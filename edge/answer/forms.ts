/** The JSON of answers for `POST /v1/completions` and `POST /v1/chat/completions`. For `POST /v1/responses`: response-form.ts. */
import type {
  ChameleonBlock,
  ChatChoice,
  ChatChunkChoice,
  ChatLogprobs,
  CompletionChoice,
  CompletionLogprobs,
} from "../../shared/contracts/responses.ts";
import { envelopeOf } from "../../shared/errors.ts";
import type { PlannedChoice } from "../plan/plan.ts";
import type { CallPart } from "./call-reader.ts";
import { type ChoicePart, chatTokensOf, type ReportedToken, tokenText } from "./choice.ts";
import { callId, type Envelope, type Form } from "./response.ts";
import { responseForm } from "./response-form.ts";

type AnyChoice = (ChatChoice | ChatChunkChoice | CompletionChoice) & { chameleon?: Partial<ChameleonBlock> };

interface Choices {
  idPrefix: string;
  object: string;
  chunkObject: string;
  choice(all: ChoicePart, envelope: Envelope): AnyChoice;
  chunkChoice(part: ChoicePart, isFirst: boolean, envelope: Envelope): AnyChoice;
}

function inChoices({ idPrefix, object, chunkObject, choice, chunkChoice }: Choices): Form {
  const answer = ({ id, created, model, fingerprint }: Envelope, object: string, choices: AnyChoice[]) => ({
    ...{ id, object, created, model, system_fingerprint: fingerprint },
    choices,
  });
  const withBlock = (one: AnyChoice, block: Partial<ChameleonBlock> | null) =>
    block === null ? one : { ...one, chameleon: block };
  return {
    idPrefix,
    repeatsText: false,
    whole(envelope, choices, usage) {
      const written = choices.map(({ all, block }) => withBlock(choice(all, envelope), block));
      const { promptLogprobs } = choices[0].all;
      const told = promptLogprobs && object === "chat.completion" && { prompt_logprobs: promptLogprobs };
      return { ...answer(envelope, object, written), usage, ...told };
    },
    events(envelope, { part, block, isFirst }) {
      const data = answer(envelope, chunkObject, [withBlock(chunkChoice(part, isFirst, envelope), block)]);
      const called = part.calls.map((call) => (call.name ?? "") + call.arguments);
      return [{ name: null, data, text: [part.text, ...called].join(""), isLast: part.done !== null }];
    },
    usageChunk: (envelope, usage) => ({ ...answer(envelope, chunkObject, []), usage }),
    failure: (_envelope, error) => [{ name: null, data: envelopeOf(error) }],
  };
}

function completionChoice({ planned, text, logprobs, promptLogprobs, done }: ChoicePart): CompletionChoice {
  const finish_reason = done?.finishReason ?? null;
  const told = promptLogprobs && { prompt_logprobs: promptLogprobs };
  return { index: planned.index, text, logprobs: logprobs && logprobsOf(logprobs), finish_reason, ...told };
}

const completionForm = inChoices({
  idPrefix: "cmpl-",
  object: "text_completion",
  chunkObject: "text_completion",
  choice: completionChoice,
  chunkChoice: (part) => completionChoice({ ...part, logprobs: part.logprobs?.length ? part.logprobs : null }),
});

function logprobsOf(tokens: readonly ReportedToken[]): CompletionLogprobs {
  return {
    tokens: tokens.map(({ piece }) => tokenText(piece)),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(topOf),
    text_offset: tokens.map(({ offset }) => offset),
  };
}

/** Log-probabilities by text. As in OpenAI's API, `top_logprobs` always include the token itself. */
function topOf({ piece, logprob, top }: ReportedToken): Record<string, number> {
  const itself = logprob === null ? [] : [{ piece, logprob }];
  return Object.fromEntries([...top, ...itself].map((one) => [tokenText(one.piece), one.logprob]));
}

const chatForm = inChoices({
  idPrefix: "chatcmpl-",
  object: "chat.completion",
  chunkObject: "chat.completion.chunk",
  choice: ({ planned, text, calls, logprobs, finishReason }, envelope) => ({
    index: planned.index,
    message: {
      ...{ role: "assistant", content: contentOf(text, calls), refusal: null },
      ...(calls.length > 0 && { tool_calls: calls.map((call) => toolCall(call, planned, envelope)) }),
    },
    logprobs: logprobs && chatLogprobsOf(logprobs),
    // A complete choice always has a finish reason; the default only satisfies the type.
    finish_reason: finishReason ?? "length",
  }),
  chunkChoice: ({ planned, text, calls, logprobs, finishReason }, isFirst, envelope) => ({
    index: planned.index,
    delta: {
      ...(isFirst && { role: "assistant" as const }),
      ...((isFirst || text !== "") && { content: contentOf(text, calls) }),
      ...(calls.length > 0 && {
        tool_calls: calls.map((call) => ({
          index: call.index,
          ...(call.name === null ? { function: { arguments: call.arguments } } : toolCall(call, planned, envelope)),
        })),
      }),
    },
    logprobs: logprobs?.length ? chatLogprobsOf(logprobs) : null,
    finish_reason: finishReason,
  }),
});

function toolCall({ index, name, arguments: json }: CallPart, choice: PlannedChoice, envelope: Envelope) {
  const id = callId(envelope, choice.index, index);
  return { id, type: "function" as const, function: { name: name!, arguments: json } };
}

function contentOf(text: string, calls: readonly CallPart[]): string | null {
  return text === "" && calls.length > 0 ? null : text;
}

function chatLogprobsOf(tokens: readonly ReportedToken[]): ChatLogprobs {
  return { content: chatTokensOf(tokens), refusal: null };
}

export const forms = { completion: completionForm, chat: chatForm, response: responseForm };
