/** Plans the retrieval of passages from memories into a prompt. Pure. */
import { limits } from "../../shared/contracts/limits.ts";
import type { CompletionRequest } from "../../shared/contracts/openai.ts";
import type { Retrieval } from "../../shared/contracts/retrieval.ts";
import { invalidRequest } from "../../shared/errors.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { Assignment } from "./assign.ts";
import type { TokenizedPrompt } from "./encode.ts";

/** Text before the passages in a chat. Without it, the model takes the passages for the user's own words. */
const chatPrefix = "Answer by this text:\n\n";
const separator = "\n\n";
/** Maximum tokens of the search query, which is the end of the question. */
const queryTokens = 256;

/**
 * Passages leave room for the answer's `max_tokens`, but may always take half of the context that the prompt leaves. Throws invalid_request
 * without a memory to search, or without a place for passages.
 */
export function retrievalOf(
  {
    echo,
    logprobs,
    prompt_logprobs,
    max_tokens,
    chameleon: { retrieve },
  }: Pick<CompletionRequest, "echo" | "logprobs" | "prompt_logprobs" | "max_tokens" | "chameleon">,
  prompt: TokenizedPrompt,
  { memories }: Pick<Assignment, "memories">,
  { contextTokens, tokenizer }: { contextTokens: number; tokenizer: Tokenizer },
): Retrieval | null {
  if (retrieve === null) return null;
  const refuse = (why: string) => invalidRequest(`chameleon.retrieve is ${retrieve}, but ${why}`, "chameleon.retrieve");
  if (echo && logprobs !== null) throw refuse("echo with logprobs scores a prompt as it is");
  if (prompt_logprobs !== null) throw refuse("prompt_logprobs scores a prompt as it is");
  if (memories.every(({ hash }) => hash === null)) {
    throw refuse("no adapter of your own with documents that are ready answers; POST /v1/adapters makes one");
  }
  const question = questionOf(prompt, tokenizer);
  if (!question) throw refuse("no message of the user stands in the prompt as it was written");
  const [start, end] = question;
  const left = contextTokens - prompt.promptIds.length;
  return {
    passages: retrieve,
    tokens: Math.min(retrieve * limits.passageTokens, Math.max(left - max_tokens, Math.floor(left / 2))),
    query: [Math.max(start, end - queryTokens), end],
    at: start,
    prefixIds: prompt.spans ? tokenizer.encode(chatPrefix) : [],
    separatorIds: tokenizer.encode(separator),
  };
}

/** The user's last message of a chat, or a whole prompt without the ids that begin every text. */
function questionOf({ promptIds, spans, question }: TokenizedPrompt, { textStart }: Tokenizer) {
  if (spans) return question;
  const begins = promptIds.length > textStart.length && textStart.every((id, i) => promptIds[i] === id);
  return [begins ? textStart.length : 0, promptIds.length] as const;
}
