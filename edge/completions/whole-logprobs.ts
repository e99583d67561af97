/** Limits the logprobs of a non-streamed answer, which is in memory until it is complete. Pure. */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Plan } from "./plan.ts";

interface Reported {
  form: "chat" | "completion";
  echo: boolean;
  /** Alternatives per token; null when logprobs are off. */
  logprobs: number | null;
  compare: boolean;
}

/** Throws invalid_request when the answer may exceed `limits.wholeLogprobs`. */
export function refuseManyLogprobs({ choices }: Plan, { form, echo, logprobs, compare }: Reported): void {
  const perToken = (logprobs === null ? 0 : 1 + logprobs) + (compare ? 1 : 0);
  // Every choice of a prompt repeats the prompt's logprobs.
  const tokensOf = ({ sequence: { maxTokens, promptIds } }: Plan["choices"][number]) =>
    maxTokens + (echo && logprobs !== null ? promptIds.length : 0);
  const most = perToken * choices.reduce((sum, choice) => sum + tokensOf(choice), 0);
  if (most <= limits.wholeLogprobs) return;
  throw new ServiceError(
    "invalid_request",
    `Invalid request: the answer may have up to ${most} logprobs, the maximum is ${limits.wholeLogprobs} without stream: true.`,
    { param: fieldOf(form, logprobs) },
  );
}

/** The field that was set. A chat's `logprobs` is true or false; `top_logprobs` gives the alternatives. */
function fieldOf(form: "chat" | "completion", logprobs: number | null): string {
  if (logprobs === null) return "chameleon.compare";
  return form === "chat" && logprobs > 0 ? "top_logprobs" : "logprobs";
}
