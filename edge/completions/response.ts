/**
 * Collects the parts of all choices, and writes them as OpenAI's objects: one for a whole response, or one chunk each.
 * Pure. Not here: what a choice looks like, which is its endpoint's form (forms.ts).
 */
import type { DoneFrame } from "../../shared/contracts/inference.ts";
import type { ChameleonBlock, ComparedToken, Timings, Usage } from "../../shared/contracts/responses.ts";
import type { ChoicePart, ReportedToken } from "./choice.ts";
import type { Plan, PlannedChoice } from "./plan.ts";

/** What all chunks of a response have in common. */
export interface Envelope {
  id: string;
  /** Unix time in seconds. */
  created: number;
  model: string;
  /** Changes when the artifacts do, and so may the text of a seed. */
  fingerprint: string;
}

/** What is known of a choice so far. */
export interface CollectedChoice {
  index: number;
  text: string;
  /** null where none were asked for. */
  reported: ReportedToken[] | null;
  finishReason: "stop" | "length" | null;
  chameleon?: ChameleonBlock;
}

/** How an endpoint writes choices. */
export interface Form<Choice, ChunkChoice> {
  /** What its ids begin with. */
  idPrefix: string;
  object: string;
  chunkObject: string;
  choice(collected: CollectedChoice): Choice;
  /** What a part adds; `isFirst` of its choice's chunks. */
  chunkChoice(part: ChoicePart, isFirst: boolean): ChunkChoice;
}

interface Answer<Choice> {
  id: string;
  object: string;
  created: number;
  model: string;
  system_fingerprint: string;
  choices: (Choice & { chameleon?: Partial<ChameleonBlock> })[];
  usage?: Usage;
  chameleon?: Partial<ChameleonBlock>;
}

export interface BuilderOptions {
  compare: boolean;
  /** Whether `response` is to be asked for: a stream's parts are written as they come, and need not be kept. */
  isWhole: boolean;
}

/**
 * Bytes that a kept logprob takes, with its token and its place in a list: measured in V8, and rounded up. As JSON it takes
 * fewer.
 */
const logprobBytes = 96;

export class ResponseBuilder<Choice extends object, ChunkChoice extends object> {
  readonly #form: Form<Choice, ChunkChoice>;
  readonly #envelope: Envelope;
  readonly #plan: Plan;
  readonly #options: BuilderOptions;
  readonly #choices: CollectedChoice[];
  readonly #compared: ComparedToken[][];
  /** By choice. */
  readonly #differences: MeanDifference[];
  /** Choices that had a chunk. */
  readonly #begun = new Set<number>();
  #completionTokens = 0;
  /** Per prompt: tokens that none of its choices computed. */
  readonly #reusedTokens = new Map<number, number>();
  readonly #timings: Timings;

  #keptBytes = 0;

  constructor(form: Form<Choice, ChunkChoice>, envelope: Envelope, plan: Plan, options: BuilderOptions) {
    this.#form = form;
    this.#envelope = envelope;
    this.#plan = plan;
    this.#options = options;
    this.#choices = plan.choices.map(({ index }) => ({ index, text: "", reported: null, finishReason: null }));
    this.#compared = plan.choices.map(() => []);
    this.#differences = plan.choices.map(() => new MeanDifference());
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

  /** About how much of the response is in memory. */
  get keptBytes(): number {
    return this.#keptBytes;
  }

  add(part: ChoicePart): void {
    const { index } = part.planned;
    const choice = this.#choices[index];
    this.#completionTokens += part.tokens;
    this.#differences[index].add(part.compared);
    if (this.#options.isWhole) this.#keep(part);
    if (!part.done) return;
    choice.finishReason = part.done.finishReason;
    choice.chameleon = this.#block(part, this.#compared[index]);
    const { prompt } = part.planned;
    const { reusedTokens = 0 } = part.done;
    this.#reusedTokens.set(prompt, Math.min(this.#reusedTokens.get(prompt) ?? reusedTokens, reusedTokens));
    for (const phase of ["queue", "adapter", "prefill", "decode"] as const) {
      this.#timings[phase] = Math.max(this.#timings[phase], part.done.timings[`${phase}Ms`]);
    }
  }

  #keep({ planned: { index }, text, logprobs, compared }: ChoicePart): void {
    const choice = this.#choices[index];
    choice.text += text;
    if (logprobs) {
      choice.reported ??= [];
      choice.reported.push(...logprobs);
    }
    this.#compared[index].push(...compared);
    const reported = (logprobs ?? []).reduce((sum, { top }) => sum + 1 + top.length, compared.length);
    // A character that is not Latin-1 makes V8 keep two bytes of all.
    this.#keptBytes += 2 * text.length + logprobBytes * reported;
  }

  /** The whole response, once every choice is done. */
  response(): Answer<Choice> {
    const choices = this.#choices.map((one) => ({ ...this.#form.choice(one), chameleon: one.chameleon }));
    return { ...this.#head(this.#form.object), choices, usage: this.usage, chameleon: choices[0].chameleon };
  }

  /** One part as a chunk, or null where there is nothing to tell yet. `add` it first. */
  chunk(part: ChoicePart): Answer<ChunkChoice> | null {
    const { planned, text, logprobs, compared, done } = part;
    if (!done && text === "" && compared.length === 0 && !logprobs?.length) return null;
    const isFirst = !this.#begun.has(planned.index);
    this.#begun.add(planned.index);
    const choice: Answer<ChunkChoice>["choices"][number] = this.#form.chunkChoice(part, isFirst);
    // The block comes with a choice's last chunk; only compared tokens come with theirs, and add up over the chunks.
    if (done) choice.chameleon = this.#block(part, compared);
    else if (this.#options.compare) choice.chameleon = { compare: { tokens: compared } };
    const chunk = { ...this.#head(this.#form.chunkObject), choices: [choice] };
    return done ? { ...chunk, chameleon: choice.chameleon } : chunk;
  }

  usageChunk(): Answer<never> {
    return { ...this.#head(this.#form.chunkObject), choices: [], usage: this.usage };
  }

  #head(object: string) {
    const { id, created, model, fingerprint } = this.#envelope;
    return { id, object, created, model, system_fingerprint: fingerprint };
  }

  /** The block of a choice that is done; `reported` are the compared tokens to list in it. */
  #block({ planned, done }: ChoicePart, reported: ComparedToken[]): ChameleonBlock {
    const { centroid, similarity, mode } = planned.assignment;
    const { queueMs = 0, adapterMs = 0, prefillMs = 0, decodeMs = 0 } = done?.timings ?? {};
    return {
      centroid: centroid.id,
      similarity,
      mode,
      experts: expertsOf(planned.assignment, done),
      evidence: done?.mixture?.evidence ?? null,
      adapter: done?.adapter ?? null,
      held_out_gain: planned.assignment.experts.includes(centroid.id) ? centroid.gain : null,
      timings: {
        tokenize: this.#plan.tokenizeMs,
        assign: this.#plan.assignMs,
        queue: queueMs,
        adapter: adapterMs,
        prefill: prefillMs,
        decode: decodeMs,
      },
      ...(this.#options.compare && {
        compare: { tokens: reported, mean_difference: this.#differences[planned.index].value },
      }),
    };
  }
}

/**
 * Experts with their weights, the base first and the pointer last; those that weigh nothing are listed, too. None where a
 * mixture was planned and never weighed, as nothing was asked of it (`max_tokens: 0`).
 */
function expertsOf({ experts, mode }: PlannedChoice["assignment"], done: DoneFrame | null): ChameleonBlock["experts"] {
  const mixture = done?.mixture;
  if (!mixture && (mode === "evidence" || mode === "fixed")) return [];
  if (!mixture) {
    const [id = "base"] = experts;
    return [{ id, weight: 1, ...(done?.adapter && { hash: done.adapter.hash }) }];
  }
  const adapters = mixture.adapters.map(({ hash, weight }, j) => ({ id: experts[j], weight, hash }));
  const pointer = mixture.evidence ? [{ id: "pointer", weight: mixture.pointer }] : [];
  return [{ id: "base", weight: mixture.base }, ...adapters, ...pointer];
}

/** Nats a token that the answer gained over the base. */
class MeanDifference {
  #sum = 0;
  #tokens = 0;

  add(compared: readonly ComparedToken[]): void {
    for (const { logprob, base_logprob } of compared) this.#sum += logprob - base_logprob;
    this.#tokens += compared.length;
  }

  /** null where there is no token. */
  get value(): number | null {
    return this.#tokens > 0 ? this.#sum / this.#tokens : null;
  }
}
