/** One sequence from its request to its last frame: ids, logit changes, stops and times. Pure. Not here: slots, steps, and sampling. */
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
import type { GrammarRow } from "./grammars.ts";
import type { Plannable } from "./plan.ts";
import type { Trace } from "./traces.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** The score of one token. */
export interface Score {
  logprob: number;
  /** The likeliest tokens at its position, with their logprobs. */
  alternatives: [number, number][];
  /** Its logprob under the base; null if it is not compared. */
  baseLogprob: number | null;
  sources?: TokenSources;
}

/** Change of one token's logit before sampling. */
export interface LogitChange {
  id: number;
  /** Repetition penalty, applied first; 1: none. */
  penalty: number;
  /** Added to the logit after the penalty. */
  value: number;
}

/** Added to the logit of a forbidden token. Its exponential is 0; it is finite because some devices cannot compute with infinity. */
export const forbidden = -1e9;

/** Milliseconds after which a sequence without a deadline counts as due, for the order among the sequences of its tenant. */
const patienceMs = 60_000;

export class Sequence implements Plannable {
  readonly request: SequenceRequest;
  readonly id: string;
  readonly tenant: string;
  readonly trace: Trace | null;
  readonly sampling: Sampling;
  /** Prompt, continued and generated token ids. */
  readonly ids: number[];
  /** Its keys and values; null before its first start and after its end. */
  kv: Kv | null = null;
  /** Tokens whose keys and values came from the prefix cache. */
  reusedTokens = 0;
  /** Acquired memories, in the request's order. */
  readonly memories: OpenMemory[] = [];
  /** The passages of these memories, if some are wanted in the prompt. */
  readonly indexes: PassageIndex[] = [];
  /** Its place in the grammar that its text is held to. */
  grammar: GrammarRow | null = null;
  /** True once its last frame is made. */
  ended = false;
  /** Its adapter, or those of its mixture; empty for the base. */
  adapters: readonly AcquiredAdapter[] = [];
  /** The adapter that answers: its only one, or the mean of its mixture. null: the base, also until a mixture has weights. */
  answering: RowAdapter | null = null;
  /** Weights of its memories' brakes; null until the prompt has chosen them. */
  brakes: BrakeWeights | null = null;
  /** The prompt's tokens that may be evidence. */
  evidenceTokens: EvidenceTokens;
  /** Weights of its mixture, once they are known. */
  #mixture: MixtureWeights | null = null;
  /** null if the weights are given by the request or not known yet. */
  #evidence: PromptEvidence | null = null;
  /** The passages in its prompt, nearest first; null until they are found. */
  #retrieved: RetrievedPassage[] | null = null;
  #retrievedTokens = 0;
  readonly #vocabulary: Vocabulary;
  readonly #text: TextStream | null;
  /** Token ids that end it. */
  readonly #stopIds: Set<number>;
  /** The sum of logit bias, presence and frequency penalty, by token id. */
  readonly #bias = new Map<number, number>();
  readonly #generated = new Set<number>();
  /** Token ids under the repetition penalty; empty if there is none. */
  readonly #repeated: Set<number>;
  #finish: FinishReason | null = null;
  readonly #prompt: Omit<PromptFrame, "type" | "id">;
  #promptSent = false;
  readonly #submittedMs: number;
  #adapterMs = 0;
  /** When it first got a slot; null before. */
  admittedMs: number | null = null;
  /** When its prompt was cached; null before. */
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

  /** Maximum positions that it holds after the next step. */
  get nextPositions(): number {
    return Math.min(this.cachedTokens + this.pendingPromptTokens + 1, this.maxPositions);
  }

  get dueMs(): number {
    return this.#submittedMs + (this.request.deadlineMs ?? patienceMs);
  }

  /** True if it ends in an error unless it starts before `dueMs`. */
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

  /** Without continued tokens, which are decoded one by one: a prefill would give other bits (infra/docs/architecture.md). */
  get pendingPromptTokens(): number {
    return Math.max(0, this.promptTokens - this.cachedTokens);
  }

  get awaitsGrammar(): boolean {
    return this.grammar?.allowed === null;
  }

  /** Whether every prompt position is computed for its score, so that no cached prefix is reused. */
  get scoresPrompt(): boolean {
    return this.request.promptLogprobs || this.trace?.kind === "hidden";
  }

  /** Index of the first prompt token that may be scored. The very first has no context, so no score. */
  get scoredFrom(): number {
    return this.trace?.from ?? 1;
  }

  /** Whether its prompt may come again: not if it is traced, such as an adapter's example. */
  get keepsPrefix(): boolean {
    return this.trace === null;
  }

  /** Changes of the next token's logits that the request asks for, each token id once. */
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

  /** Whether its mixture gets weights when its prompt is cached. */
  get awaitsMixture(): boolean {
    return this.request.mixture?.evidence !== undefined && this.#mixture === null;
  }

  /** Whether the brakes of its memories are to be chosen now. */
  get awaitsBrakes(): boolean {
    if (this.memories.length === 0 || this.brakes || this.awaitsMixture || this.awaitsPassages) return false;
    return this.pendingPromptTokens === 0;
  }

  /** Whether passages are put into its prompt when the prompt is cached. */
  get awaitsPassages(): boolean {
    return this.request.retrieval !== undefined && this.#retrieved === null;
  }

  /** Whether memories are mixed into the next token or, if `isScore`, into the score of a prompt token, which needs the brakes. */
  readsMemories(isScore: boolean): boolean {
    return this.request.memories !== undefined && (this.brakes !== null || !isScore);
  }

  /** Why it ends, once everything is sampled and scored; null before. */
  get finish(): FinishReason | null {
    if (this.scoresPrompt && !this.promptScored) return null;
    if (this.awaitsPassages || (this.trace && this.pendingPromptTokens > 0)) return null;
    return this.#finish;
  }

  get promptScored(): boolean {
    return this.#prompt.logprobs.length === this.promptTokens;
  }

  /** Sets its adapters when it is queued. */
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

  /** Sets the weights of its mixture. */
  weighed(weights: MixtureWeights, evidence: PromptEvidence | null): void {
    this.#mixture = weights;
    this.#evidence = evidence;
    const adapters = this.adapters.map(({ adapter }) => adapter);
    this.answering = meanAdapter(adapters, weights.adapters);
  }

  /** Puts passages, which are no evidence, into its prompt, which must be cached again. */
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

  /** Returns the prompt frame once, if it was requested and every prompt token is scored; else null. */
  takePromptFrame(): PromptFrame | null {
    if (!this.request.promptLogprobs || !this.promptScored || this.#promptSent) return null;
    this.#promptSent = true;
    return { type: "prompt", id: this.id, ...this.#prompt };
  }

  /** Adds a sampled token. Returns its frame, or null at the end. Logprobs are at temperature 1 after all logit changes, as OpenAI's. */
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

  /** `rule`: how memories are mixed; null if the engine reads none. */
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
