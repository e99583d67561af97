/** The parts of choices as OpenAI's completion objects: one for a whole response, or one chunk each. Pure. */
import type {
  ChameleonBlock,
  ComparedToken,
  CompletionChoice,
  CompletionLogprobs,
  CompletionResponse,
  Timings,
  Usage,
} from "../../shared/contracts/openai.ts";
import type { ChoicePart } from "./choice.ts";
import type { Plan } from "./plan.ts";

/** What all chunks of a response have in common. */
export interface Envelope {
  id: string;
  /** Unix time in seconds. */
  created: number;
  model: string;
  /** Changes when the artifacts do, and so may the text of a seed. */
  fingerprint: string;
}

/** Collects the parts of all choices. */
export class ResponseBuilder {
  readonly #envelope: Envelope;
  readonly #plan: Plan;
  readonly #compare: boolean;
  readonly #choices: CompletionChoice[];
  readonly #compared: ComparedToken[][];
  #completionTokens = 0;
  /** Per prompt: tokens that none of its choices computed. */
  readonly #reusedTokens = new Map<readonly number[], number>();
  readonly #timings: Timings;

  constructor(envelope: Envelope, plan: Plan, compare: boolean) {
    this.#envelope = envelope;
    this.#plan = plan;
    this.#compare = compare;
    this.#choices = plan.choices.map(({ index }) => ({ index, text: "", logprobs: null, finish_reason: null }));
    this.#compared = plan.choices.map(() => []);
    this.#timings = { tokenize: plan.tokenizeMs, assign: plan.assignMs, queue: 0, adapter: 0, prefill: 0, decode: 0 };
  }

  /** Of the slowest choice, phase by phase. */
  get timings(): Timings {
    return this.#timings;
  }

  get usage(): Usage {
    const prompt = this.#plan.promptTokens;
    const completion = this.#completionTokens;
    const reused = this.#reusedTokens.values().reduce((sum, tokens) => sum + tokens, 0);
    return {
      prompt_tokens: prompt,
      completion_tokens: completion,
      total_tokens: prompt + completion,
      ...(reused > 0 && { prompt_tokens_details: { cached_tokens: reused } }),
    };
  }

  add(part: ChoicePart): void {
    const { index } = part.planned;
    const choice = this.#choices[index];
    choice.text += part.text;
    if (part.logprobs) {
      choice.logprobs ??= { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
      append(choice.logprobs, part.logprobs);
    }
    this.#compared[index].push(...part.compared);
    if (!part.done) return;
    choice.finish_reason = part.done.finishReason;
    choice.chameleon = this.#block(part, this.#compared[index]);
    this.#completionTokens += part.done.completionTokens;
    const { promptIds } = part.planned.sequence;
    const { reusedTokens = 0 } = part.done;
    this.#reusedTokens.set(promptIds, Math.min(this.#reusedTokens.get(promptIds) ?? reusedTokens, reusedTokens));
    for (const phase of ["queue", "adapter", "prefill", "decode"] as const) {
      this.#timings[phase] = Math.max(this.#timings[phase], part.done.timings[`${phase}Ms`]);
    }
  }

  /** The whole response, once every choice is done. */
  response(): CompletionResponse {
    const chameleon = this.#choices[0].chameleon;
    return { ...this.#head(), choices: this.#choices, usage: this.usage, chameleon };
  }

  /** One part as a chunk, or null where there is nothing to tell yet. `add` it first. */
  chunk(part: ChoicePart): CompletionResponse | null {
    const { planned, text, logprobs, compared, done } = part;
    if (!done && text === "" && compared.length === 0 && !logprobs?.tokens.length) return null;
    const choice: CompletionChoice = {
      index: planned.index,
      text,
      logprobs: logprobs?.tokens.length ? logprobs : null,
      finish_reason: done?.finishReason ?? null,
    };
    // The block comes with a choice's last chunk; only compared tokens come with theirs, and add up over the chunks.
    if (done) choice.chameleon = this.#block(part, compared);
    else if (this.#compare) choice.chameleon = { compare: { tokens: compared } };
    const chunk: CompletionResponse = { ...this.#head(), choices: [choice] };
    return done ? { ...chunk, chameleon: choice.chameleon } : chunk;
  }

  usageChunk(): CompletionResponse {
    return { ...this.#head(), choices: [], usage: this.usage };
  }

  #head() {
    const { id, created, model, fingerprint } = this.#envelope;
    return { id, object: "text_completion" as const, created, model, system_fingerprint: fingerprint };
  }

  /** The block of a choice that is done; `reported` are the compared tokens to list in it. */
  #block({ planned, done }: ChoicePart, reported: ComparedToken[]): ChameleonBlock {
    const { centroid, similarity, mode } = planned.assignment;
    const { queueMs = 0, adapterMs = 0, prefillMs = 0, decodeMs = 0 } = done?.timings ?? {};
    return {
      centroid: centroid.id,
      similarity,
      mode,
      adapter: done?.adapter ?? null,
      gain: mode === "adapted" ? centroid.gain : null,
      timings: {
        tokenize: this.#plan.tokenizeMs,
        assign: this.#plan.assignMs,
        queue: queueMs,
        adapter: adapterMs,
        prefill: prefillMs,
        decode: decodeMs,
      },
      ...(this.#compare && {
        compare: { tokens: reported, mean_difference: meanDifference(this.#compared[planned.index]) },
      }),
    };
  }
}

/** Nats a token that the adapter gained; null where there is no token. */
function meanDifference(compared: readonly ComparedToken[]): number | null {
  const sum = compared.reduce((total, { logprob, base_logprob }) => total + logprob - base_logprob, 0);
  return compared.length > 0 ? sum / compared.length : null;
}

function append(target: CompletionLogprobs, more: CompletionLogprobs): void {
  target.tokens.push(...more.tokens);
  target.token_logprobs.push(...more.token_logprobs);
  target.top_logprobs.push(...more.top_logprobs);
  target.text_offset.push(...more.text_offset);
}
