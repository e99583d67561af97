/**
 * One generation from its request to its last frame: token ids, logit changes, stop strings and times. Pure: the engine reports
 * what a step computed and sends the frames made here. Not here: slots, steps, and choosing the next token.
 */
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
import type { OpenMemory } from "../memory/memory-cache.ts";
import type { InsertedPassages, PassageIndex } from "../memory/retrieval.ts";
import type { Kv } from "../runtime/model-runner.ts";
import type { GrammarRow } from "./grammars.ts";
import type { Plannable } from "./plan.ts";
import { HiddenTrace, type Trace } from "./traces.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** One scored token: its logprob, the likeliest tokens at its position, and its logprob under the base. */
export interface Score {
  logprob: number;
  alternatives: [number, number][];
  baseLogprob: number | null;
  /** Of a generated token, where they are requested. */
  sources?: TokenSources;
}

/** Change of one token's logit before sampling: a repetition penalty (1 for none), then an addition. */
export interface LogitChange {
  id: number;
  penalty: number;
  value: number;
}

/** Added to the logit of a forbidden token. Finite, as not every device computes with infinities; its exponential is 0. */
export const forbidden = -1e9;

/** Deadline, in milliseconds, by which a sequence without one is ordered among others of its tenant. */
const patienceMs = 60_000;

export class Sequence implements Plannable {
  readonly request: SequenceRequest;
  /** null unless it is traced. */
  readonly trace: Trace | null;
  readonly sampling: Sampling;
  /** Prompt, continued and generated token ids. */
  readonly ids: number[];
  /** Its keys and values, from its first start to its end. */
  kv: Kv | null = null;
  /** How many of those came from the prefix cache. */
  reusedTokens = 0;
  /** Acquired memories, in the request's order. */
  readonly memories: OpenMemory[] = [];
  /** Their passages, if it wants some in its prompt. */
  readonly indexes: PassageIndex[] = [];
  /** Its place in the grammar of its schema, if it has one. */
  grammar: GrammarRow | null = null;
  /** Set once; no frame follows. */
  ended = false;
  #adapters: readonly AcquiredAdapter[] = [];
  #answering: RowAdapter | null = null;
  /** Weights of the mixture, once they are known. */
  #mixture: MixtureWeights | null = null;
  /** null if the weights were given, or are not known yet. */
  #evidence: PromptEvidence | null = null;
  /** null until the prompt has chosen them. */
  #brakes: BrakeWeights | null = null;
  /** The prompt's tokens that may be evidence. */
  #evidenceTokens: EvidenceTokens;
  /** The passages in its prompt, nearest first; null until they are found. */
  #retrieved: RetrievedPassage[] | null = null;
  #retrievedTokens = 0;
  readonly #vocabulary: Vocabulary;
  readonly #text: TextStream | null;
  /** Token ids that end it. */
  readonly #stopIds: Set<number>;
  /** Logit bias, presence and frequency penalties of the next token, by token id. */
  readonly #bias = new Map<number, number>();
  readonly #generated = new Set<number>();
  /** Token ids under the repetition penalty: those of `ids`, each once; empty without a penalty. */
  readonly #repeated: Set<number>;
  #finish: FinishReason | null = null;
  readonly #prompt: Omit<PromptFrame, "type" | "id">;
  #promptSent = false;
  readonly #submittedMs: number;
  #adapterMs = 0;
  #admittedMs: number | null = null;
  #decodingMs: number | null = null;

  constructor(request: SequenceRequest, vocabulary: Vocabulary, nowMs: number, trace: Trace | null = null) {
    const { promptIds, continuedIds, mixture, memories } = request;
    const { tokens, spans } = mixture?.evidence ?? { tokens: memories ? promptIds.length : 0 };
    this.#evidenceTokens = { tokens: Math.min(promptIds.length, tokens), spans };
    const sampling = samplingWith(request.sampling);
    this.request = request;
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

  get id(): string {
    return this.request.id;
  }

  get row(): Kv {
    if (!this.kv) throw new Error("the sequence has no row");
    return this.kv;
  }

  /** How many of `ids` have their keys and values in its row. */
  get cachedTokens(): number {
    return this.kv?.positions ?? 0;
  }

  get tenant(): string {
    return this.request.tenant;
  }

  get maxPositions(): number {
    return Math.min(this.promptTokens + this.request.maxTokens, this.#vocabulary.contextTokens);
  }

  get dueMs(): number {
    return this.#submittedMs + (this.request.deadlineMs ?? patienceMs);
  }

  /** True if it is of no use to start after `dueMs`. */
  get expires(): boolean {
    return this.request.deadlineMs !== undefined && this.#admittedMs === null;
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

  /** Continued tokens count as decoded, one a step: a prefill of them would give other bits (infra/docs/architecture.md). */
  get pendingPromptTokens(): number {
    return Math.max(0, this.promptTokens - this.cachedTokens);
  }

  get awaitsGrammar(): boolean {
    return this.grammar?.allowed === null;
  }

  get scoresPrompt(): boolean {
    return this.request.promptLogprobs || this.trace?.kind === "hidden";
  }

  /** Index of the first prompt token that is scored where any is: what precedes the first has no score. */
  get scoredFrom(): number {
    return this.trace instanceof HiddenTrace ? this.trace.from : 1;
  }

  get keepsPrefix(): boolean {
    return this.trace === null;
  }

  /** The request's changes of the next token's logits, each token id once. */
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

  /** Whether a token is to be sampled once all `ids` are cached. */
  get wantsToken(): boolean {
    return this.#finish === null;
  }

  /** The one adapter, or those of its mixture; none serves the base. */
  get adapters(): readonly AcquiredAdapter[] {
    return this.#adapters;
  }

  /** The adapter that answers: the one, or the mean of the mixture's. null is the base, also while the evidence is awaited. */
  get answering(): RowAdapter | null {
    return this.#answering;
  }

  /** Whether its prompt has to be cached before its mixture has weights. */
  get awaitsMixture(): boolean {
    return this.request.mixture?.evidence !== undefined && this.#mixture === null;
  }

  /** Whether its prompt is cached and what answers is known, but not the brakes of its memories. */
  get awaitsBrakes(): boolean {
    if (this.memories.length === 0 || this.#brakes || this.awaitsMixture || this.awaitsPassages) return false;
    return this.pendingPromptTokens === 0;
  }

  get evidenceTokens(): EvidenceTokens {
    return this.#evidenceTokens;
  }

  /** Whether its prompt has to be cached before it is known which passages come into it. */
  get awaitsPassages(): boolean {
    return this.request.retrieval !== undefined && this.#retrieved === null;
  }

  get brakes(): BrakeWeights | null {
    return this.#brakes;
  }

  /** Whether memories are mixed into the next token, or into the score of a prompt token: not of those that choose the brakes. */
  readsMemories(isScore: boolean): boolean {
    return this.request.memories !== undefined && (this.#brakes !== null || !isScore);
  }

  /** The reason to end, once all is sampled and scored; null before. */
  get finish(): FinishReason | null {
    if (this.scoresPrompt && !this.promptScored) return null;
    if (this.awaitsPassages || (this.trace && this.pendingPromptTokens > 0)) return null;
    return this.#finish;
  }

  get promptScored(): boolean {
    return this.#prompt.logprobs.length === this.promptTokens;
  }

  /** Its adapters are acquired: the one that answers, or those of its mixture. */
  queued(adapters: readonly AcquiredAdapter[], nowMs: number): void {
    this.#adapters = adapters;
    this.#adapterMs = nowMs - this.#submittedMs;
    const { mixture } = this.request;
    if (!mixture) {
      const [acquired] = adapters;
      this.#answering = acquired?.adapter.gates || acquired?.adapter.changes.length ? acquired.adapter : null;
    } else if (!mixture.evidence) {
      const weights = mixture.adapters.map(({ weight }) => weight);
      this.weighed(withFloor({ base: mixture.base, adapters: weights }, 0), null);
    }
  }

  /** Its mixture has weights. */
  weighed(weights: MixtureWeights, evidence: PromptEvidence | null): void {
    this.#mixture = weights;
    this.#evidence = evidence;
    const adapters = this.#adapters.map(({ adapter }) => adapter);
    this.#answering = meanAdapter(adapters, weights.adapters);
  }

  /** Its memories have brakes. */
  braked(brakes: BrakeWeights): void {
    this.#brakes = brakes;
  }

  /** Puts passages into its prompt, which has to be cached again. They are no evidence. */
  insertPassages({ ids, passages }: InsertedPassages): void {
    const { at } = this.request.retrieval!;
    this.ids.splice(at, 0, ...ids);
    this.#retrieved = passages;
    this.#retrievedTokens = ids.length;
    this.#evidenceTokens = evidenceAround(this.#evidenceTokens, at, ids.length);
    if (this.sampling.repetition_penalty !== 1) for (const id of ids) this.#repeated.add(id);
  }

  /** It has a slot, for the first time or after it was parked. */
  admitted(nowMs: number): void {
    this.#admittedMs ??= nowMs;
  }

  /** The prompt is cached. */
  prefilled(nowMs: number): void {
    this.#decodingMs = nowMs;
  }

  /** Adds the score of the next prompt token. */
  addPromptScore(score: Score): void {
    this.#prompt.logprobs.push(score.logprob);
    this.#prompt.alternatives.push(score.alternatives);
    this.#prompt.baseLogprobs?.push(score.baseLogprob ?? score.logprob);
  }

  /** The prompt frame, once, if it was requested and every prompt token is scored; else null. */
  takePromptFrame(): PromptFrame | null {
    if (!this.request.promptLogprobs || !this.promptScored || this.#promptSent) return null;
    this.#promptSent = true;
    return { type: "prompt", id: this.id, ...this.#prompt };
  }

  /**
   * Adds a sampled token id. Returns its frame, or null if it ends the sequence. Logprobs are of the distribution at temperature 1
   * with the adapter and all logit changes, as OpenAI reports them.
   */
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

  /** `rule` is that of its memories, null if none can be read. */
  doneFrame(nowMs: number, rule: MemoryRule | null): DoneFrame {
    const [admittedMs, decodingMs] = [this.#admittedMs ?? nowMs, this.#decodingMs ?? nowMs];
    const [first = null] = this.#adapters;
    const mixture = this.#mixture;
    return {
      type: "done",
      id: this.id,
      finishReason: this.#finish!,
      adapter: first && { hash: first.adapter.hash, cache: first.cache, scale: first.adapter.scale },
      ...(mixture && {
        mixture: {
          base: mixture.base,
          adapters: this.#adapters.map(({ adapter }, i) => ({ hash: adapter.hash, weight: mixture.adapters[i] })),
          evidence: this.#evidence,
        },
      }),
      ...(this.memories.length > 0 && {
        memories: this.memories.map(({ hash }, m) => ({ hash, brake: meanBrake(rule, this.#brakes?.[m]) })),
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
