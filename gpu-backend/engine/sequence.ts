import type {
  DoneFrame,
  FinishReason,
  PromptFrame,
  SequenceRequest,
  TokenFrame,
  TokenSources,
} from "../../shared/contracts/inference.ts";
import type { RetrievedPassage } from "../../shared/contracts/retrieval.ts";
import { type Sampling, samplingWith } from "../../shared/contracts/sampling.ts";
import {
  type EvidenceTokens,
  evidenceAround,
  type MixtureWeights,
  type PromptEvidence,
  withFloor,
} from "../../shared/math/evidence.ts";
import { type BrakeWeights, type MemoryRule, meanBrake } from "../../shared/math/memory.ts";
import { TextStream } from "../../shared/tokenizer/text-stream.ts";
import { meanAdapter, type RowAdapter } from "../adapters/adapter.ts";
import type { AcquiredAdapter } from "../adapters/generated/adapter-cache.ts";
import type { Kv } from "../kv/runner.ts";
import type { OpenMemory } from "../memory/memory-cache.ts";
import type { InsertedPassages, PassageIndex } from "../memory/retrieval.ts";
import { Drafts } from "./drafts.ts";
import type { GrammarRow } from "./grammars.ts";
import type { Plannable } from "./plan.ts";
import type { Trace } from "./traces.ts";
import type { Vocabulary } from "./vocabulary.ts";

export interface Score {
  logprob: number;
  alternatives: [number, number][];
  /** null if the request has no comparison with the base. */
  baseLogprob: number | null;
  sources?: TokenSources;
}

export interface LogitChange {
  id: number;
  /** Repetition penalty. 1 has no effect. */
  penalty: number;
  /** Added to the logit after the penalty. */
  value: number;
}

/** Added to a forbidden token's logit. Finite, because some devices cannot compute with infinity. */
export const forbidden = -1e9;

/** A sequence without a deadline counts as due after this time. */
const patienceMs = 60_000;

export class Sequence implements Plannable {
  readonly request: SequenceRequest;
  readonly id: string;
  readonly tenant: string;
  readonly trace: Trace | null;
  readonly sampling: Sampling;
  readonly ids: number[];
  /** null before the sequence's start and after its end. */
  kv: Kv | null = null;
  reusedTokens = 0;
  readonly memories: OpenMemory[] = [];
  /** Empty unless passages are to go into the prompt. */
  readonly indexes: PassageIndex[] = [];
  grammar: GrammarRow | null = null;
  ended = false;
  adapters: readonly AcquiredAdapter[] = [];
  /** null if the base answers. A mixture's base answers until the mixture has weights. */
  answering: RowAdapter | null = null;
  readonly drafts = new Drafts();
  /** null until the prompt has set the brakes (shared/math/memory.ts). */
  brakes: BrakeWeights | null = null;
  evidenceTokens: EvidenceTokens;
  #mixture: MixtureWeights | null = null;
  /** null if the request itself gives the mixture's weights. */
  #evidence: PromptEvidence | null = null;
  /** Passages, nearest first; null until they are found. */
  #retrieved: RetrievedPassage[] | null = null;
  #retrievedTokens = 0;
  readonly #vocabulary: Vocabulary;
  readonly #text: TextStream | null;
  readonly #stopIds: Set<number>;
  /** Sum of logit bias, presence penalty and frequency penalty, by token id. */
  readonly #bias = new Map<number, number>();
  readonly #generated = new Set<number>();
  /** Token ids under the repetition penalty. */
  readonly #repeated: Set<number>;
  #finish: FinishReason | null = null;
  readonly #prompt: Omit<PromptFrame, "type" | "id">;
  #promptSent = false;
  readonly #submittedMs: number;
  #adapterMs = 0;
  /** When the sequence first got a slot. */
  admittedMs: number | null = null;
  /** When the whole prompt was cached. */
  decodingMs: number | null = null;

  constructor(request: SequenceRequest, vocabulary: Vocabulary, nowMs: number, trace: Trace | null = null) {
    const { promptIds, continuedIds, mixture, memories } = request;
    const { tokens, spans } = mixture?.evidence ?? { tokens: memories ? promptIds.length : 0 };
    this.evidenceTokens = { tokens: Math.min(promptIds.length, tokens), spans };
    const sampling = samplingWith(request.sampling);
    this.request = request;
    this.id = request.id;
    this.tenant = request.tenant;
    this.sampling = sampling;
    this.trace = trace;
    this.#vocabulary = vocabulary;
    this.#submittedMs = nowMs;
    this.ids = [...promptIds];
    for (const [id, value] of sampling.logit_bias) this.#bias.set(id, (this.#bias.get(id) ?? 0) + value);
    this.#repeated = new Set(sampling.repetition_penalty === 1 ? [] : promptIds);
    this.#stopIds = new Set([...sampling.stop_token_ids, ...(sampling.ignore_eos ? [] : vocabulary.stopIds)]);
    const { stop, min_tokens } = sampling;
    this.#text = stop.length > 0 ? new TextStream(vocabulary.textPieceOf, stop, min_tokens) : null;
    this.#prompt = {
      logprobs: new Array(this.scoredFrom).fill(null),
      alternatives: new Array(this.scoredFrom).fill([]),
    };
    if (request.compare) this.#prompt.baseLogprobs = [null];
    if (request.maxTokens === 0) this.#finish = "length";
    for (const id of continuedIds) if (!this.#finish) this.#append(id);
  }

  get row(): Kv {
    if (!this.kv) throw new Error("the sequence has no row");
    return this.kv;
  }

  get cachedTokens(): number {
    return this.kv?.positions ?? 0;
  }

  get maxPositions(): number {
    return Math.min(this.promptTokens + this.request.maxTokens, this.#vocabulary.contextTokens);
  }

  get nextPositions(): number {
    return Math.min(this.cachedTokens + this.pendingPromptTokens + 1, this.maxPositions);
  }

  get dueMs(): number {
    return this.#submittedMs + (this.request.deadlineMs ?? patienceMs);
  }

  /** Whether the sequence ends in an error if it does not start before `dueMs`. */
  get expires(): boolean {
    return this.request.deadlineMs !== undefined && this.admittedMs === null;
  }

  get promptTokens(): number {
    return this.request.promptIds.length + this.#retrievedTokens;
  }

  get completionTokens(): number {
    return this.ids.length - this.promptTokens;
  }

  get pendingTokens(): number {
    return this.ids.length - this.cachedTokens;
  }

  /** Continued tokens do not count: they are decoded again, because a prefill would give other bits. */
  get pendingPromptTokens(): number {
    return Math.max(0, this.promptTokens - this.cachedTokens);
  }

  get awaitsGrammar(): boolean {
    return this.grammar?.allowed === null;
  }

  /** If true, every prompt position is computed, and no cached prefix is reused. */
  get scoresPrompt(): boolean {
    return this.request.promptLogprobs || this.trace?.kind === "hidden";
  }

  /** At least 1, because the prompt's first token has no context. */
  get scoredFrom(): number {
    return this.trace?.from ?? 1;
  }

  /** Traced prompts, such as an adapter's examples, are not repeated. */
  get keepsPrefix(): boolean {
    return this.trace === null;
  }

  *logitChanges(): Generator<LogitChange> {
    const { repetition_penalty, min_tokens } = this.sampling;
    const forbiddenIds = this.completionTokens >= min_tokens ? null : this.#stopIds;
    for (const id of forbiddenIds ?? []) yield { id, penalty: 1, value: forbidden };
    for (const id of this.#repeated) {
      if (!forbiddenIds?.has(id)) yield { id, penalty: repetition_penalty, value: this.#bias.get(id) ?? 0 };
    }
    for (const [id, value] of this.#bias) {
      if (!forbiddenIds?.has(id) && !this.#repeated.has(id)) yield { id, penalty: 1, value };
    }
  }

  /** Guesses of the tokens after the next one. Empty if that one changes the logits of the tokens after it. */
  draftsFor(cost: number): readonly number[] {
    const { presence_penalty, frequency_penalty, repetition_penalty, min_tokens } = this.sampling;
    const isChanged = presence_penalty !== 0 || frequency_penalty !== 0 || repetition_penalty !== 1;
    if (!this.wantsToken || this.grammar || isChanged || this.completionTokens < min_tokens) return [];
    return this.drafts.propose(this.ids, cost, this.maxPositions - this.ids.length - 1);
  }

  get wantsToken(): boolean {
    return this.#finish === null;
  }

  get awaitsMixture(): boolean {
    return this.request.mixture?.evidence !== undefined && this.#mixture === null;
  }

  get awaitsBrakes(): boolean {
    if (this.memories.length === 0 || this.brakes || this.awaitsMixture || this.awaitsPassages) return false;
    return this.pendingPromptTokens === 0;
  }

  get awaitsPassages(): boolean {
    return this.request.retrieval !== undefined && this.#retrieved === null;
  }

  /** `isScore`: for a prompt token's score, which needs chosen brakes. */
  readsMemories(isScore: boolean): boolean {
    return this.request.memories !== undefined && (this.brakes !== null || !isScore);
  }

  /** null until every token is sampled and scored. */
  get finish(): FinishReason | null {
    if (this.scoresPrompt && !this.promptScored) return null;
    if (this.awaitsPassages || (this.trace && this.pendingPromptTokens > 0)) return null;
    return this.#finish;
  }

  get promptScored(): boolean {
    return this.#prompt.logprobs.length === this.promptTokens;
  }

  queued(adapters: readonly AcquiredAdapter[], nowMs: number): void {
    this.adapters = adapters;
    this.#adapterMs = nowMs - this.#submittedMs;
    const { mixture } = this.request;
    if (!mixture) {
      const [acquired] = adapters;
      this.answering = acquired?.adapter.gates || acquired?.adapter.changes.length ? acquired.adapter : null;
    } else if (!mixture.evidence) {
      const weights = mixture.adapters.map(({ weight }) => weight);
      this.weighed(withFloor({ base: mixture.base, adapters: weights }, 0), null);
    }
  }

  weighed(weights: MixtureWeights, evidence: PromptEvidence | null): void {
    this.#mixture = weights;
    this.#evidence = evidence;
    const adapters = this.adapters.map(({ adapter }) => adapter);
    this.answering = meanAdapter(adapters, weights.adapters);
  }

  /** The prompt must then be computed again. Passages do not count as evidence. */
  insertPassages({ ids, passages }: InsertedPassages): void {
    const { at } = this.request.retrieval!;
    this.ids.splice(at, 0, ...ids);
    this.#retrieved = passages;
    this.#retrievedTokens = ids.length;
    this.evidenceTokens = evidenceAround(this.evidenceTokens, at, ids.length);
    if (this.sampling.repetition_penalty !== 1) for (const id of ids) this.#repeated.add(id);
  }

  addPromptScore(score: Score): void {
    this.#prompt.logprobs.push(score.logprob);
    this.#prompt.alternatives.push(score.alternatives);
    this.#prompt.baseLogprobs?.push(score.baseLogprob ?? score.logprob);
  }

  takePromptFrame(): PromptFrame | null {
    if (!this.request.promptLogprobs || !this.promptScored || this.#promptSent) return null;
    this.#promptSent = true;
    return { type: "prompt", id: this.id, ...this.#prompt };
  }

  /** Returns null for a stop token. Like OpenAI's, logprobs are at temperature 1, after all logit changes. */
  addToken(tokenId: number, score: Score): TokenFrame | null {
    if (this.#stopIds.has(tokenId)) {
      this.#finish = "stop";
      return null;
    }
    const frame: TokenFrame = { type: "token", id: this.id, index: this.completionTokens, tokenId };
    if (this.sampling.logprobs !== null) {
      frame.logprob = score.logprob;
      frame.alternatives = score.alternatives;
    }
    if (this.request.compare) {
      frame.logprob = score.logprob;
      frame.baseLogprob = score.baseLogprob ?? score.logprob;
    }
    if (this.#retrieved && frame.index === 0) frame.retrievedTokens = this.#retrievedTokens;
    if (score.sources) frame.sources = score.sources;
    this.#append(tokenId);
    return frame;
  }

  /** `rule` is null if the engine reads no memories. */
  doneFrame(nowMs: number, rule: MemoryRule | null): DoneFrame {
    const [admittedMs, decodingMs] = [this.admittedMs ?? nowMs, this.decodingMs ?? nowMs];
    const [first = null] = this.adapters;
    const mixture = this.#mixture;
    return {
      type: "done",
      id: this.id,
      finishReason: this.#finish!,
      adapter: first && { hash: first.adapter.hash, cache: first.cache, scale: first.adapter.scale },
      ...(mixture && {
        mixture: {
          base: mixture.base,
          adapters: this.adapters.map(({ adapter }, i) => ({ hash: adapter.hash, weight: mixture.adapters[i] })),
          evidence: this.#evidence,
        },
      }),
      ...(this.memories.length > 0 && {
        memories: this.memories.map(({ hash }, m) => ({ hash, brake: meanBrake(rule, this.brakes?.[m]) })),
      }),
      ...(this.#retrieved && { retrieved: this.#retrieved }),
      promptTokens: this.promptTokens,
      completionTokens: this.completionTokens,
      reusedTokens: this.reusedTokens,
      timings: {
        adapterMs: this.#adapterMs,
        queueMs: admittedMs - this.#submittedMs - this.#adapterMs,
        prefillMs: decodingMs - admittedMs,
        decodeMs: nowMs - decodingMs,
      },
    };
  }

  #append(tokenId: number): void {
    const { presence_penalty, frequency_penalty, repetition_penalty } = this.sampling;
    this.ids.push(tokenId);
    const penalty = frequency_penalty + (this.#generated.has(tokenId) ? 0 : presence_penalty);
    if (penalty !== 0) this.#bias.set(tokenId, (this.#bias.get(tokenId) ?? 0) - penalty);
    this.#generated.add(tokenId);
    if (repetition_penalty !== 1) this.#repeated.add(tokenId);
    if (this.#text?.push(tokenId).stopped) this.#finish = "stop";
    else if (this.completionTokens >= this.request.maxTokens) this.#finish = "length";
    else if (this.ids.length >= this.#vocabulary.contextTokens) this.#finish = "length";
  }
}
