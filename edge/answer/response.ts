/**
 * Collects the parts of all choices and builds OpenAI's objects: a chunk for each part, or one whole response. Pure. Not here:
 * the shape of a choice, which differs by endpoint (forms.ts).
 */
import type { DoneFrame } from "../../shared/contracts/inference.ts";
import type {
  ChameleonBlock,
  ChatChoice,
  ChatChunkChoice,
  ComparedToken,
  CompletionChoice,
  SourcedToken,
  Timings,
  Usage,
} from "../../shared/contracts/responses.ts";
import type { Plan, PlannedChoice } from "../plan/plan.ts";
import type { ChoiceOptions, ChoicePart } from "./choice.ts";
import { retrievedTokensOf } from "./token-count.ts";

/** Fields that all chunks of a response repeat. */
export interface Envelope {
  id: string;
  /** Unix time in seconds. */
  created: number;
  model: string;
  /** Of the artifacts: with others, a seed may give another text. */
  fingerprint: string;
}

interface Collected {
  /** Its parts joined; of a stream only `done`. */
  all: ChoicePart;
  /** Number of its compared tokens, and the nats that they gained over the base. */
  gained: { nats: number; tokens: number };
  /** It has had a chunk. */
  hasBegun: boolean;
}

type AnyChoice = ChatChoice | ChatChunkChoice | CompletionChoice;

/** How an endpoint writes choices. */
export interface Form {
  idPrefix: string;
  object: string;
  chunkObject: string;
  /** A choice that is done, from its joined parts. */
  choice(all: ChoicePart): AnyChoice;
  /** A chunk's choice; `isFirst`: the first chunk of this choice. */
  chunkChoice(part: ChoicePart, isFirst: boolean): AnyChoice;
}

interface Answer {
  id: string;
  object: string;
  created: number;
  model: string;
  system_fingerprint: string;
  choices: (AnyChoice & { chameleon?: Partial<ChameleonBlock> })[];
  usage?: Usage;
}

interface BuilderOptions extends Pick<ChoiceOptions, "compare" | "sources" | "withBlock"> {
  /** Not a stream: parts are joined for `response`. */
  isWhole: boolean;
}

/** Bytes of a logprob with its token and its place in a list: measured in V8, rounded up. As JSON it takes fewer. */
const logprobBytes = 96;
/** The same of a passage behind a token. */
const passageBytes = 192;

export class ResponseBuilder {
  readonly #form: Form;
  readonly #envelope: Envelope;
  readonly #plan: Plan;
  readonly #options: BuilderOptions;
  readonly #choices: Collected[];
  #completionTokens = 0;
  /** Per prompt: tokens that none of its choices computed, and those of its passages. */
  readonly #reusedTokens = new Map<number, number>();
  readonly #retrievedTokens = new Map<number, number>();
  /** The maximum of all choices for each phase. */
  readonly timings: Timings;
  /** Approximate bytes of the joined parts in memory. */
  heldBytes = 0;

  constructor(form: Form, envelope: Envelope, plan: Plan, options: BuilderOptions) {
    this.#form = form;
    this.#envelope = envelope;
    this.#plan = plan;
    this.#options = options;
    this.#choices = plan.choices.map((planned) => ({
      all: { planned, text: "", logprobs: null, compared: [], sourced: [], done: null },
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
    if (!done) return;
    choice.all.done = done;
    this.#completionTokens += done.completionTokens;
    const { reusedTokens = 0 } = done;
    this.#reusedTokens.set(
      planned.prompt,
      Math.min(this.#reusedTokens.get(planned.prompt) ?? reusedTokens, reusedTokens),
    );
    this.#retrievedTokens.set(planned.prompt, retrievedTokensOf(planned, done) ?? 0);
    const timings = this.#timingsOf(done);
    for (const phase of ["queue", "adapter", "prefill", "decode"] as const) {
      this.timings[phase] = Math.max(this.timings[phase], timings[phase]);
    }
  }

  #join(all: ChoicePart, { text, logprobs, compared, sourced }: ChoicePart): void {
    all.text += text;
    if (logprobs) {
      all.logprobs ??= [];
      all.logprobs.push(...logprobs);
    }
    all.compared.push(...compared);
    all.sourced.push(...sourced);
    const passages = sourced.reduce((sum, one) => sum + 1 + one.passages.length, 0);
    const reported = (logprobs ?? []).reduce((sum, { top }) => sum + 1 + top.length, compared.length);
    // V8 stores a string in two bytes a character if one is not Latin-1.
    this.heldBytes += 2 * text.length + logprobBytes * reported + passageBytes * passages;
  }

  /** The whole response, once every choice is done. */
  response(): Answer {
    const choices = this.#choices.map(({ all }) => ({
      ...this.#form.choice(all),
      ...(this.#options.withBlock && { chameleon: this.#block(all) }),
    }));
    return { ...this.#head(this.#form.object), choices, usage: this.usage };
  }

  /** One part as a chunk, or null where there is nothing to tell yet. `add` it first. */
  chunk(part: ChoicePart): Answer | null {
    const { planned, text, logprobs, compared, sourced, done } = part;
    const isSilent = text === "" && compared.length + sourced.length === 0 && !logprobs?.length;
    if (!done && isSilent) return null;
    const collected = this.#choices[planned.index];
    const choice: Answer["choices"][number] = this.#form.chunkChoice(part, !collected.hasBegun);
    collected.hasBegun = true;
    // The block comes with a choice's last chunk; compared tokens come with their own chunks.
    if (done && this.#options.withBlock) choice.chameleon = this.#block(part);
    else if (this.#options.compare || sourced.length > 0) {
      choice.chameleon = {
        ...(this.#options.compare && { compare: { tokens: compared.map(roundedToken) } }),
        ...(sourced.length > 0 && { sources: sourced.map(roundedSources) }),
      };
    }
    return { ...this.#head(this.#form.chunkObject), choices: [choice] };
  }

  usageChunk(): Answer {
    return { ...this.#head(this.#form.chunkObject), choices: [], usage: this.usage };
  }

  #head(object: string) {
    const { id, created, model, fingerprint } = this.#envelope;
    return { id, object, created, model, system_fingerprint: fingerprint };
  }

  /** The block of a choice that is done; it lists the part's compared tokens and sources. */
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

/** Four decimals: finer differences say nothing about a text. */
function rounded(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}

function roundedToken({ token, logprob, base_logprob }: ComparedToken): ComparedToken {
  return { token, logprob: rounded(logprob), base_logprob: rounded(base_logprob) };
}

function roundedSources({ token, share, passages }: SourcedToken): SourcedToken {
  return { token, share: rounded(share), passages: passages.map((one) => ({ ...one, share: rounded(one.share) })) };
}

/** To a tenth of a millisecond. */
function roundedTimings(timings: Timings): Timings {
  const entries = Object.entries(timings).map(([phase, ms]) => [phase, Math.round(ms * 10) / 10]);
  return Object.fromEntries(entries) as Timings;
}

/** Experts with their weights, zero included: the base first. Empty for a mixture that was never weighed (`max_tokens: 0`). */
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
