/** Maximum tokens, logprobs and bytes of a request, and the tokens that it has used. Pure. */
import type { ErrorFrame, Frame } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest } from "../../shared/errors.ts";
import type { Plan, PlannedChoice } from "../plan/plan.ts";
import type { Consumption } from "../tenants/consumption.ts";
import type { ChoiceOptions } from "./choice.ts";

/** Each prompt counts once, with the passages put into it; `maxTokens` counts for every choice. */
export function maxTokensOf(choices: readonly PlannedChoice[]): number {
  const counted = new Set<number>();
  let tokens = 0;
  for (const { prompt, sequence } of choices) {
    if (!counted.has(prompt)) tokens += sequence.promptIds.length + (sequence.retrieval?.tokens ?? 0);
    counted.add(prompt);
    tokens += sequence.maxTokens;
  }
  return tokens;
}

interface Reported extends Omit<ChoiceOptions, "withBlock"> {
  form: "chat" | "completion" | "response";
}

/** Throws invalid_request if a non-streamed answer, which is held in RAM, may exceed `limits.wholeLogprobs`. */
export function refuseManyLogprobs(
  { choices }: Plan,
  { form, echo, logprobs, promptLogprobs, compare, sources }: Reported,
): void {
  const perToken =
    (logprobs === null ? 0 : 1 + logprobs) + (compare ? 1 : 0) + (sources ? 1 + limits.sourcesPerToken : 0);
  // Every choice of a prompt repeats the prompt's logprobs.
  const tokensOf = ({ sequence: { maxTokens, promptIds } }: Plan["choices"][number]) =>
    maxTokens + (echo && logprobs !== null ? promptIds.length : 0);
  const perPromptToken = promptLogprobs === null ? 0 : 1 + promptLogprobs;
  // `prompt_logprobs` is a field of a chat's answer, but of each choice of a completion.
  const scored = form === "chat" ? choices.slice(0, 1) : choices;
  const logprobsMax =
    scored.reduce((sum, { sequence }) => sum + perPromptToken * sequence.promptIds.length, 0) +
    choices.reduce((sum, choice) => sum + perToken * tokensOf(choice), 0);
  if (logprobsMax <= limits.wholeLogprobs) return;
  const message = `the answer may have up to ${logprobsMax} logprobs, the maximum is ${limits.wholeLogprobs} without stream: true`;
  throw invalidRequest(message, promptLogprobs === null ? fieldOf(form, logprobs, compare) : "prompt_logprobs");
}

/** Maximum bytes of a choice's last event, and of an event with one token. GPT-2's longest token has 128 bytes. */
const [lastEventBytes, eventBytes] = [4096, 512];

/** Maximum bytes of a stream without heartbeats. null: no bound, because of logprobs, an echoed prompt or passages. */
export function maxStreamBytes(
  { choices }: Plan,
  { form, echo, logprobs, compare, sources }: Reported,
  settings?: object,
): number | null {
  if (echo || compare || sources || logprobs !== null || choices.some(({ sequence }) => sequence.retrieval))
    return null;
  const tokens = choices.reduce((sum, { sequence }) => sum + sequence.maxTokens, 0);
  // A response repeats its settings three times, with at most six bytes per character, and its text up to four times.
  if (form === "response") return 2 * (lastEventBytes + eventBytes * tokens) + 18 * JSON.stringify(settings).length;
  return choices.length * lastEventBytes + eventBytes * tokens;
}

function fieldOf(form: Reported["form"], logprobs: number | null, compare: boolean): string {
  if (logprobs === null) return compare ? "chameleon.compare" : "chameleon.sources";
  return form === "response" || (form === "chat" && logprobs > 0) ? "top_logprobs" : "logprobs";
}

export class TokenCount {
  readonly #model: string;
  readonly #choices: readonly PlannedChoice[];
  readonly #tokens = new Map<PlannedChoice, number>();
  /** Passage tokens by prompt index. */
  readonly #retrieved = new Map<number, number>();

  constructor(model: string, choices: readonly PlannedChoice[]) {
    this.#model = model;
    this.#choices = choices;
  }

  add(planned: PlannedChoice, frame: Exclude<Frame, ErrorFrame>): void {
    this.#tokens.set(planned, (this.#tokens.get(planned) ?? 0) + (frame.type === "token" ? 1 : 0));
    const retrieved = retrievedTokensOf(planned, frame);
    if (retrieved !== null) this.#retrieved.set(planned.prompt, retrieved);
  }

  get haveAllBegun(): boolean {
    return this.#tokens.size === this.#choices.length;
  }

  /** A mixture counts under its first adapter. `everyPrompt`: also counts prompts without a frame, because backends may have begun them. */
  consumed(everyPrompt: boolean): Consumption[] {
    const rows = new Map<string | null, Consumption>();
    const prompts = new Set<number>();
    for (const choice of this.#choices) {
      const tokens = this.#tokens.get(choice);
      if (tokens === undefined && !everyPrompt) continue;
      const { promptIds, retrieval } = choice.sequence;
      const reserved = tokens === undefined ? (retrieval?.tokens ?? 0) : 0;
      const length = promptIds.length + (this.#retrieved.get(choice.prompt) ?? reserved);
      const centroid = choice.assignment.adapter?.id ?? null;
      const row = rows.get(centroid) ?? { model: this.#model, centroid, ...nothing };
      // The request counts once, under the first adapter.
      const requests = rows.size === 0 ? 1 : row.requests;
      const promptTokens = row.promptTokens + (prompts.has(choice.prompt) ? 0 : length);
      prompts.add(choice.prompt);
      rows.set(centroid, { ...row, requests, promptTokens, completionTokens: row.completionTokens + (tokens ?? 0) });
    }
    return [...rows.values()];
  }
}

/** Tokens of the passages in a choice's prompt; null if the frame does not report them. */
export function retrievedTokensOf({ sequence }: PlannedChoice, frame: Frame): number | null {
  if (frame.type === "token") return frame.retrievedTokens ?? null;
  return frame.type === "done" && sequence.retrieval ? frame.promptTokens - sequence.promptIds.length : null;
}

const nothing = { requests: 0, promptTokens: 0, completionTokens: 0 };
