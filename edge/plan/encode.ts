/** Encodes a request's prompts. The encoding of a text stops one token past the limit. Pure. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { Prompt } from "../../shared/contracts/fields.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import type { Span } from "../../shared/math/evidence.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";

export interface TokenizedPrompt {
  promptIds: number[];
  /** The tokens that decide the nearest centroids; absent: `promptIds`. */
  subjectIds?: number[];
  /** Only for chats: spans of the tokens that weigh the experts. */
  spans?: Span[];
  /** Only for chats: the tokens of the user's last message; absent if they were not found. */
  question?: Span;
}

export interface TokenBound {
  param: string;
  /** The prompt's name in error messages if the request has only one prompt. */
  single: string;
  maxTokens: number;
  /** Ids that stand before each text, such as a model's BOS. */
  begin: readonly number[];
  /** End of the error message for too many tokens. null: surplus tokens are dropped without an error. */
  limitText: string | null;
}

/** Throws context_length_exceeded for a prompt that is too long, and invalid_request for an id outside the vocabulary. */
export function encodePrompts(prompts: readonly Prompt[], artifacts: Artifacts, bound: TokenBound): number[][] {
  const { param, single, maxTokens, begin, limitText } = bound;
  return prompts.map((prompt, p) => {
    const at = prompts.length > 1 ? `${param}[${p}]` : null;
    const isText = typeof prompt === "string";
    const ids = isText ? [...begin, ...artifacts.tokenizer.encode(prompt, maxTokens - begin.length)] : prompt;
    if (ids.length > maxTokens && limitText !== null) throw overlong(bound, at ?? single, isText ? null : ids.length);
    if (!isText) requireKnown(ids, artifacts.manifest.model, param, at ?? param);
    if (ids.length === 0) {
      throw invalidRequest(`${at ?? param} holds no character that the model's vocabulary has`, param);
    }
    return ids.length > maxTokens ? ids.slice(0, maxTokens) : ids;
  });
}

/** `tokens`: null if encoding stopped one token past the limit. */
export function overlong({ param, maxTokens, limitText }: TokenBound, at: string, tokens: number | null): ServiceError {
  const message = `${at} has ${tokens ?? `at least ${maxTokens + 1}`} tokens; ${limitText}.`;
  return new ServiceError("context_length_exceeded", message, { param });
}

/** Throws invalid_request for an id outside the vocabulary. `at`: the prompt's name in the message. */
export function requireKnown(
  ids: readonly number[],
  { vocabularySize, servedAs }: Manifest["model"],
  param: string,
  at = param,
): void {
  const unknown = ids.find((id) => id >= vocabularySize);
  if (unknown === undefined) return;
  const vocabulary = `the vocabulary of ${servedAs} has ${vocabularySize} ids, from 0`;
  throw invalidRequest(`${at} holds the token id ${unknown}; ${vocabulary}`, param);
}
