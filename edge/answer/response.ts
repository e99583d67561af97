/** Builds events, or one whole answer, from the parts of all choices. Pure. Not here: endpoints' JSON (forms.ts, response-form.ts). */
import type { DoneFrame } from "../../shared/contracts/inference.ts";
import type { ResponseSettings } from "../../shared/contracts/response-object.ts";
import type { ChameleonBlock, ComparedToken, SourcedToken, Timings, Usage } from "../../shared/contracts/responses.ts";
import { sseEvent } from "../../shared/contracts/sse.ts";
import type { ServiceError } from "../../shared/errors.ts";
import type { Plan, PlannedChoice } from "../plan/plan.ts";
import type { ChoiceOptions, ChoicePart } from "./choice.ts";
import { retrievedTokensOf } from "./token-count.ts";

export interface Envelope {
  id: string;
  /** Unix time in seconds. */
  created: number;
  model: string;
  /** Identifies the artifacts. With other artifacts, the same seed may give another text. */
  fingerprint: string;
  settings?: ResponseSettings;
}

/** Depends only on the answer's id, so that a repeated request gets the same call ids. */
export function callId({ id }: Envelope, choice: number, call: number): string {
  return `call_${id.slice(id.search(/[-_]/) + 1)}_${choice}_${call}`;
}

interface Collected {
  /** The choice's parts, joined. A streamed answer keeps only `done`, the finish reason and, if the form repeats them, text and calls. */
  all: ChoicePart;
  /** Gain over the base model, summed over the choice's compared tokens. */
  gained: { nats: number; tokens: number };
  hasBegun: boolean;
}

interface NamedEvent {
  name: string | null;
  data: object;
}

export interface ChoiceEvent extends NamedEvent {
  /** The choice's text in this event. sent-events.ts hashes it. */
  text: string;
  isLast: boolean;
}

interface NextPart {
  part: ChoicePart;
  all: ChoicePart;
  /** With a choice's last part, the whole `chameleon` object; with an earlier part, only the lists about the part's tokens. */
  block: Partial<ChameleonBlock> | null;
  isFirst: boolean;
  sequence: number;
  usage(): Usage;
}

export interface Form {
  idPrefix: string;
  repeatsText: boolean;
  whole(envelope: Envelope, choices: { all: ChoicePart; block: ChameleonBlock | null }[], usage: Usage): object;
  events(envelope: Envelope, next: NextPart): ChoiceEvent[];
  usageChunk(envelope: Envelope, usage: Usage): object | null;
  failure(envelope: Envelope, error: ServiceError, sequence: number): NamedEvent[];
}

export function eventText({ name, data }: NamedEvent, id: string | null = null): string {
  return sseEvent(JSON.stringify(data), id, name);
}

interface BuilderOptions extends Pick<ChoiceOptions, "compare" | "sources" | "withBlock"> {
  isWhole: boolean;
}

/** Bytes of a logprob with its token in RAM, measured in V8 and rounded up. Its JSON takes fewer bytes. */
const logprobBytes = 96;
/** Bytes of a token's source passage, measured in the same way. */
const passageBytes = 192;

export class ResponseBuilder {
  readonly #form: Form;
  readonly #envelope: Envelope;
  readonly #plan: Plan;
  readonly #options: BuilderOptions;
  readonly #choices: Collected[];
  #completionTokens = 0;
  eventCount = 0;
  // Token counts by prompt index: prompt tokens that no choice had to compute, and tokens of passages put into the prompt.
  readonly #reusedTokens = new Map<number, number>();
  readonly #retrievedTokens = new Map<number, number>();
  readonly timings: Timings;
  heldBytes = 0;

  constructor(form: Form, envelope: Envelope, plan: Plan, options: BuilderOptions) {
    this.#form = form;
    this.#envelope = envelope;
    this.#plan = plan;
    this.#options = options;
    this.#choices = plan.choices.map((planned) => ({
      all: {
        planned,
        text: "",
        calls: [],
        logprobs: null,
        promptLogprobs: null,
        compared: [],
        sourced: [],
        done: null,
        finishReason: null,
      },
      gained: { nats: 0, tokens: 0 },
      hasBegun: false,
    }));
    this.timings = this.#timingsOf(null);
  }

  get usage(): Usage {
    const retrieved = this.#retrievedTokens.values().reduce((sum, tokens) => sum + tokens, 0);
    const prompt = this.#plan.promptTokens + retrieved;
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
    const { planned, compared, done } = part;
    const choice = this.#choices[planned.index];
    for (const { logprob, base_logprob } of compared) choice.gained.nats += logprob - base_logprob;
    choice.gained.tokens += compared.length;
    if (this.#options.isWhole) this.#join(choice.all, part);
    else if (this.#form.repeatsText) this.#join(choice.all, { ...part, logprobs: null, compared: [], sourced: [] });
    if (!done) return;
    Object.assign(choice.all, { done, finishReason: part.finishReason });
    this.#completionTokens += done.completionTokens;
    const { reusedTokens = 0 } = done;
    const before = this.#reusedTokens.get(planned.prompt) ?? reusedTokens;
    this.#reusedTokens.set(planned.prompt, Math.min(before, reusedTokens));
    this.#retrievedTokens.set(planned.prompt, retrievedTokensOf(planned, done) ?? 0);
    const timings = this.#timingsOf(done);
    for (const phase of ["queue", "adapter", "prefill", "decode"] as const) {
      this.timings[phase] = Math.max(this.timings[phase], timings[phase]);
    }
  }

  #join(all: ChoicePart, { text, calls, logprobs, promptLogprobs, compared, sourced }: ChoicePart): void {
    all.text += text;
    all.promptLogprobs ??= promptLogprobs;
    for (const told of promptLogprobs ?? []) this.heldBytes += 2 * logprobBytes * Object.keys(told ?? {}).length;
    for (const call of calls) {
      all.calls[call.index] ??= { ...call, arguments: "" };
      const begun = all.calls[call.index];
      begun.arguments += call.arguments;
      begun.isWhole = call.isWhole;
      this.heldBytes += 2 * call.arguments.length;
    }
    if (logprobs) {
      all.logprobs ??= [];
      all.logprobs.push(...logprobs);
    }
    all.compared.push(...compared);
    all.sourced.push(...sourced);
    const passages = sourced.reduce((sum, one) => sum + 1 + one.passages.length, 0);
    const reported = (logprobs ?? []).reduce((sum, { top }) => sum + 1 + top.length, compared.length);
    // V8 stores two bytes per character of a string that is not Latin-1.
    this.heldBytes += 2 * text.length + logprobBytes * reported + passageBytes * passages;
  }

  whole(): object {
    const choices = this.#choices.map(({ all }) => ({ all, block: this.#options.withBlock ? this.#block(all) : null }));
    return this.#form.whole(this.#envelope, choices, this.usage);
  }

  events(part: ChoicePart): ChoiceEvent[] {
    const { planned, text, calls, logprobs, compared, sourced, done } = part;
    const isSilent = text === "" && calls.length + compared.length + sourced.length === 0 && !logprobs?.length;
    if (!done && isSilent) return [];
    const collected = this.#choices[planned.index];
    const events = this.#form.events(this.#envelope, {
      ...{ part, all: collected.all, block: this.#blockOf(part), isFirst: !collected.hasBegun },
      ...{ sequence: this.eventCount, usage: () => this.usage },
    });
    collected.hasBegun = true;
    this.eventCount += events.length;
    return events;
  }

  #blockOf(part: ChoicePart): Partial<ChameleonBlock> | null {
    const { compared, sourced, done } = part;
    if (done && this.#options.withBlock) return this.#block(part);
    if (!this.#options.compare && sourced.length === 0) return null;
    return {
      ...(this.#options.compare && { compare: { tokens: compared.map(roundedToken) } }),
      ...(sourced.length > 0 && { sources: sourced.map(roundedSources) }),
    };
  }

  usageChunk(): object | null {
    return this.#form.usageChunk(this.#envelope, this.usage);
  }

  failure(error: ServiceError): NamedEvent[] {
    return this.#form.failure(this.#envelope, error, this.eventCount);
  }

  #block({ planned, compared, sourced, done }: ChoicePart): ChameleonBlock {
    const { centroid, similarity, mode, experts, memories } = planned.assignment;
    const { nats, tokens } = this.#choices[planned.index].gained;
    const { adapter = null, mixture } = done ?? {};
    const { evidence = null } = mixture ?? {};
    const gain = experts.includes(centroid.id) ? centroid.gain : null;
    return {
      centroid: centroid.id,
      similarity: rounded(similarity),
      mode,
      seed: this.#plan.seed,
      experts: expertsOf(planned.assignment, done),
      evidence: evidence && { ...evidence, nats: rounded(evidence.nats) },
      adapter: adapter && { ...adapter, scale: rounded(adapter.scale) },
      held_out_gain: gain && {
        ...gain,
        nats: rounded(gain.nats),
        ci95: [rounded(gain.ci95[0]), rounded(gain.ci95[1])],
      },
      ...(memories.length > 0 && {
        memories: memories.map(({ id }, m) => ({ id, brake: rounded(done?.memories?.[m]?.brake ?? 0) })),
        ...(this.#options.sources && { sources: sourced.map(roundedSources) }),
      }),
      ...(done?.retrieved && {
        retrieved: done.retrieved.map(({ memory, similarity, ...passage }) => ({
          ...{ adapter: memories[memory].id, ...passage, similarity: rounded(similarity) },
        })),
      }),
      timings: roundedTimings(this.#timingsOf(done)),
      ...(this.#options.compare && {
        compare: { tokens: compared.map(roundedToken), mean_difference: tokens > 0 ? rounded(nats / tokens) : null },
      }),
    };
  }

  #timingsOf(done: DoneFrame | null): Timings {
    const { queueMs = 0, adapterMs = 0, prefillMs = 0, decodeMs = 0 } = done?.timings ?? {};
    const { tokenizeMs: tokenize, assignMs: assign } = this.#plan;
    return { tokenize, assign, queue: queueMs, adapter: adapterMs, prefill: prefillMs, decode: decodeMs };
  }
}

function rounded(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}

function roundedToken({ token, logprob, base_logprob }: ComparedToken): ComparedToken {
  return { token, logprob: rounded(logprob), base_logprob: rounded(base_logprob) };
}

function roundedSources({ token, share, passages }: SourcedToken): SourcedToken {
  return { token, share: rounded(share), passages: passages.map((one) => ({ ...one, share: rounded(one.share) })) };
}

function roundedTimings(timings: Timings): Timings {
  const entries = Object.entries(timings).map(([phase, ms]) => [phase, Math.round(ms * 10) / 10]);
  return Object.fromEntries(entries) as Timings;
}

/** All experts with their weights, the base model first. Empty if the mixture was never weighed (`max_tokens: 0`). */
function expertsOf({ experts, mode }: PlannedChoice["assignment"], done: DoneFrame | null): ChameleonBlock["experts"] {
  const mixture = done?.mixture;
  if (!mixture && (mode === "evidence" || mode === "fixed")) return [];
  if (!mixture) {
    const [id = "base"] = experts;
    return [{ id, weight: 1, ...(done?.adapter && { hash: done.adapter.hash }) }];
  }
  const adapters = mixture.adapters.map(({ hash, weight }, j) => ({ id: experts[j], weight: rounded(weight), hash }));
  return [{ id: "base", weight: rounded(mixture.base) }, ...adapters];
}
