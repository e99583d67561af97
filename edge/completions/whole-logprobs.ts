/** A bound on the logprobs of an answer that is not a stream: it is in memory until it is complete. Pure. */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Plan } from "./plan.ts";

interface Reported {
  echo: boolean;
  /** Alternatives per token; null for no logprobs at all. */
  logprobs: number | null;
  compare: boolean;
}

/** Throws invalid_request where the answer may come to more logprobs than a whole one may have. */
export function refuseManyLogprobs({ choices }: Plan, { echo, logprobs, compare }: Reported): void {
  const perToken = (logprobs === null ? 0 : 1 + logprobs) + (compare ? 1 : 0);
  // Every choice of a prompt repeats the prompt's logprobs.
  const tokensOf = ({ sequence: { maxTokens, promptIds } }: Plan["choices"][number]) =>
    maxTokens + (echo && logprobs !== null ? promptIds.length : 0);
  const most = perToken * choices.reduce((sum, choice) => sum + tokensOf(choice), 0);
  if (most <= limits.wholeLogprobs) return;
  throw new ServiceError(
    "invalid_request",
    `Invalid request: the answer may come to ${most} logprobs, the maximum is ${limits.wholeLogprobs} without stream: true.`,
    { param: "logprobs" },
  );
}
