/** Token ids of the prompts of a request, whatever form they came in. No text is encoded beyond what it may have. */
import type { Prompt } from "../../shared/contracts/fields.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Artifacts } from "./artifacts.ts";

/** How many tokens each prompt of a field may have. */
export interface TokenBound {
  /** The request's field, for messages. */
  param: string;
  /** How a message names the only prompt. */
  single: string;
  most: number;
  /** The bound in words, after "has 1030 tokens; ". */
  says: string;
}

/** Throws context_length_exceeded for the first prompt that is too long, invalid_request for an id out of the vocabulary. */
export function encodePrompts(prompts: readonly Prompt[], artifacts: Artifacts, bound: TokenBound): number[][] {
  return prompts.map((prompt, p) => {
    const at = prompts.length > 1 ? `${bound.param}[${p}]` : null;
    const isText = typeof prompt === "string";
    const ids = isText ? artifacts.tokenizer.encode(prompt, bound.most) : prompt;
    if (ids.length > bound.most) throw overlong(bound, at ?? bound.single, isText ? null : ids.length);
    if (!isText) requireKnown(ids, artifacts, bound.param, at);
    return ids;
  });
}

/** The first `most` tokens of each prompt, however long it is. Throws invalid_request for an id out of the vocabulary. */
export function encodeBeginnings(
  prompts: readonly Prompt[],
  artifacts: Artifacts,
  { param, most }: Pick<TokenBound, "param" | "most">,
): number[][] {
  return prompts.map((prompt, p) => {
    if (typeof prompt === "string") return artifacts.tokenizer.encode(prompt, most).slice(0, most);
    requireKnown(prompt, artifacts, param, prompts.length > 1 ? `${param}[${p}]` : null);
    return prompt.slice(0, most);
  });
}

/** `tokens`: how many it has; null where no more than one over the bound were made. */
export function overlong({ param, most, says }: TokenBound, at: string, tokens: number | null): ServiceError {
  const message = `${at} has ${tokens ?? `at least ${most + 1}`} tokens; ${says}.`;
  return new ServiceError("context_length_exceeded", message, { param });
}

function requireKnown(ids: readonly number[], { manifest }: Artifacts, param: string, at: string | null): void {
  const { vocabularySize, servedAs } = manifest.model;
  const unknown = ids.find((id) => id >= vocabularySize);
  if (unknown === undefined) return;
  throw new ServiceError(
    "invalid_request",
    `Invalid request: ${at ?? param} holds the token id ${unknown}; the vocabulary of ${servedAs} has ${vocabularySize} ids, from 0.`,
    { param },
  );
}
