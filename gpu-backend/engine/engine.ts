/**
 * Continuous batching over one step runner. Sequences enter by `submit` and leave with their last frame, between the phases of
 * a step. The owner calls `step` while the engine is busy; frames go out through `emit`, phase by phase.
 *
 * A fault of one sequence (a result that is not finite, or anything thrown while it alone is handled) ends it in one error
 * frame and frees all it held; the others' bits do not change. If a whole step fails, `step` rejects and the engine is
 * unusable.
 */
import { errorFrame, type Frame, type SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { uniformAt } from "../../shared/math/sampling.ts";
import type { AcquiredAdapter, AdapterCache } from "../adapters/generated/adapter-cache.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";
import { arenaShapeOf, bytesPerPosition, KvBudget } from "../kv/kv-budget.ts";
import { free } from "../kv/kv-memory.ts";
import { KvRows, type LengthClass } from "../kv/kv-rows.ts";
import type { PrefixCache } from "../kv/prefix-cache.ts";
import type { StepOutput, StepRunner } from "../runtime/step.ts";
import type { Head } from "./head-rows.ts";
import type { EngineStats, PhaseReport } from "./messages.ts";
import { headsAfterEvidence, weighMixture } from "./mixture-steps.ts";
import { type Chunk, composePhase, faultsOf, headFaults } from "./pass.ts";
import { nextChunk, type PlanLimits } from "./plan.ts";
import { Planner } from "./planner.ts";
import { faultOf, sequenceRefusal } from "./refusals.ts";
import { alternativesOf, headHidden, headResult, logprobOf, logprobOfTarget, sampleToken } from "./sampler.ts";
import { HiddenTrace, Sequence, type Vocabulary, vocabularyOf } from "./sequence.ts";
import { SharedPrefixes } from "./shared-prefixes.ts";

export interface EngineParts {
  runner: StepRunner;
  adapters: AdapterCache;
  /** null: prompts are not cached. */
  prefixCache: PrefixCache | null;
  limits: PlanLimits;
  /** Bound on the memory of keys and values of running and parked sequences. */
  kvBytes: number;
  /** The bytes that a token id adds to a text; none for a special token. */
  textPieceOf(id: number): Uint8Array;
  /** Milliseconds of a clock that only goes forward. */
  now(): number;
  emit(frames: Frame[], report: PhaseReport | null): void;
  /** A sequence was queued, so `step` has something to do. */
  queued?(): void;
  /** A pass has finished; more of its phase may follow before `emit`. */
  progressed?(): void;
  /** A sequence ended because it cannot be computed; `error.cause` is what was thrown. */
  faulted?(error: ServiceError): void;
}

export class Engine {
  readonly #parts: EngineParts;
  readonly #vocabulary: Vocabulary;
  readonly #planner: Planner<Sequence>;
  readonly #rows: KvRows<Sequence>;
  readonly #prefixes: SharedPrefixes<Sequence> | null;
  /** Every sequence that has not ended, by id. */
  readonly #open = new Map<string, Sequence>();
  readonly #cancelled = new Set<string>();
  #frames: Frame[] = [];
  #preemptions = 0;

  constructor(parts: EngineParts) {
    const { config } = parts.runner;
    const kvShape = arenaShapeOf(config);
    // As much again as the slots can use is enough for parked sequences.
    const usable = 2 * parts.limits.maxSequences * kvShape.contextTokens * bytesPerPosition(kvShape);
    const kvBytes = Math.min(parts.kvBytes, usable);
    this.#parts = { ...parts, kvBytes };
    this.#vocabulary = vocabularyOf(config, parts.textPieceOf);
    this.#prefixes = parts.prefixCache && new SharedPrefixes(parts.prefixCache, parts.limits.chunkTokens);
    this.#planner = new Planner(parts.limits, {
      kv: new KvBudget(kvShape, kvBytes, parts.runner),
      prefixes: this.#prefixes,
    });
    this.#rows = new KvRows({ ...kvShape, maximumRows: parts.limits.maxSequences, maximumBytes: kvBytes });
  }

  /** Whether `step` has something to do. */
  get busy(): boolean {
    const { waiting, running } = this.#planner.state;
    return waiting.length + running.size + this.#cancelled.size > 0;
  }

  get stats(): EngineStats {
    const { waiting, running } = this.#planner.state;
    return {
      waiting: waiting.length,
      parked: this.#rows.parked,
      preemptions: this.#preemptions,
      running: running.size,
      slots: this.#parts.limits.maxSequences,
      kvBytes: this.#rows.bytes,
      kvUsedBytes: this.#rows.usedBytes,
      kvCapacityBytes: this.#parts.kvBytes,
      prefixes: this.#parts.prefixCache?.stats ?? null,
      adapters: this.#parts.adapters.stats,
    };
  }

  /**
   * Accepts a micro-batch under the adapter `adapterId` (a centroid's id, or a tenant's own; null is the base); a mixture names its
   * own adapters. A sequence that cannot be served ends in its error frame. Throws an Error for an id that is open. `traced` gets
   * each prompt's hidden states without the last token, [N, D], before its last frame.
   */
  async submit(
    adapterId: string | null,
    requests: readonly SequenceRequest[],
    traced: ((id: string, hidden: Float32Array<ArrayBuffer>) => void) | null = null,
  ): Promise<void> {
    const taken = new Set(this.#open.keys());
    for (const { id } of requests) {
      if (taken.has(id)) throw new Error(`sequence ${id} is open already`);
      taken.add(id);
    }
    const accepted: Sequence[] = [];
    for (const request of requests) {
      try {
        const refusal = sequenceRefusal(request, this.#parts.runner.config);
        if (refusal) throw refusal;
        const trace = traced && new HiddenTrace((hidden) => traced(request.id, hidden));
        const sequence = new Sequence(request, this.#vocabulary, this.#parts.now(), trace);
        this.#open.set(sequence.id, sequence);
        accepted.push(sequence);
      } catch (thrown) {
        this.#frames.push(errorFrame(request.id, this.#reportFault(thrown)));
      }
    }
    this.#flush(null);
    await Promise.all(accepted.map((sequence) => this.#enqueueWithAdapters(sequence, adapterId)));
  }

  /** Ends sequences with an error frame "cancelled" before the next phase runs. Unknown ids are ignored. */
  cancel(ids: readonly string[]): void {
    for (const id of ids) if (this.#open.has(id)) this.#cancelled.add(id);
  }

  /** One step: executes one StepPlan. */
  async step(): Promise<void> {
    this.#dropCancelled();
    this.#dropLate();
    const plan = this.#planner.nextStep();
    const classOf = (sequence: Sequence) => (plan.long.has(sequence) ? "long" : "short");
    for (const sequence of plan.parked) this.#rows.park(sequence);
    this.#preemptions += plan.parked.length;
    // All leave before the first arrives, so that memory holds none twice.
    for (const sequence of plan.moved) this.#rows.park(sequence);
    for (const sequence of plan.moved) this.#guard(sequence, () => this.#rows.resume(sequence, classOf(sequence)));
    for (const sequence of plan.started) this.#guard(sequence, () => this.#seat(sequence, classOf(sequence)));
    await this.#prefill(plan.prefill);
    this.#dropCancelled();
    await this.#decode(plan.decode.filter(({ ended }) => !ended));
    this.#rows.trim();
    this.#flush(null);
  }

  /** Computes the next chunk of each prompt, one prompt a pass: several would be padded to the longest without any gain. */
  async #prefill(sequences: readonly Sequence[]): Promise<void> {
    const startedMs = this.#parts.now();
    const { chunkTokens } = this.#parts.limits;
    const counts = { sequences: 0, tokens: 0, sampledTokens: 0 };
    for (const sequence of sequences) {
      if (sequence.ended) continue;
      const begunTokens = sequence.cachedTokens % chunkTokens;
      const tokens = nextChunk(sequence.cachedTokens, sequence.pendingPromptTokens, chunkTokens);
      const { sampled, block } = await this.#run("prefill", [{ sequence, tokens }], begunTokens);
      this.#parts.progressed?.();
      counts.sampledTokens += sampled;
      counts.sequences++;
      counts.tokens += tokens;
      this.#guard(sequence, () => this.#keepChunk(sequence, begunTokens + tokens, block));
      if (sequence.ended || sequence.pendingPromptTokens > 0) continue;
      if (sequence.awaitsEvidence) counts.sampledTokens += await this.#startMixture(sequence);
      this.#guard(sequence, () => this.#endPrefill(sequence));
      this.#flush(null);
    }
    if (counts.sequences === 0) return;
    this.#flush({ phase: "prefill", ms: this.#parts.now() - startedMs, ...counts });
  }

  /** Computes the next token of each sequence, in one pass. */
  async #decode(sequences: readonly Sequence[]): Promise<void> {
    if (sequences.length === 0) return;
    const startedMs = this.#parts.now();
    const chunks = this.#rows.inOrder(sequences).map((sequence) => ({ sequence, tokens: 1 }));
    const { sampled } = await this.#run("decode", chunks, 0);
    for (const sequence of sequences) this.#guard(sequence, () => void this.#endIfFinished(sequence));
    const ms = this.#parts.now() - startedMs;
    this.#flush({ phase: "decode", ms, sequences: chunks.length, tokens: chunks.length, sampledTokens: sampled });
  }

  /**
   * One pass of the trunk, for sequences in the order of their rows; `begunTokens` of each chunk are cached already. Ends sequences
   * whose results are not finite. Returns the number of sampled tokens and, for one unpadded chunk, its keys and values, which have
   * the layout of a prefix block.
   */
  async #run(phase: "prefill" | "decode", chunks: readonly Chunk[], begunTokens: number) {
    const { config, gates } = this.#parts.runner;
    const sequences = chunks.map(({ sequence }) => sequence);
    const { input, heads } = composePhase(phase, chunks, { ...this.#rows.feed(sequences), begunTokens }, gates);
    const output = await this.#parts.runner.run(input);
    const faults = faultsOf({ chunks, heads, tokens: input.tokens }, output, config);
    // A mask is added to scores, so a value in the arena that is not finite would spoil the next sequence in that row.
    const counts = chunks.map(({ sequence, tokens }) => (faults.has(sequence) ? 0 : tokens));
    this.#rows.append(sequences, counts, output.present, input.tokens);
    for (const [s, sequence] of sequences.entries()) sequence.cachedTokens += counts[s];
    for (const [sequence, error] of faults) this.#fail(sequence, this.#reportFault(error));
    for (const head of heads) this.#guard(head.sequence, () => this.#read(head, output));
    const sampled = heads.filter(({ scoredId, sequence }) => scoredId === null && !faults.has(sequence)).length;
    const isBlock = this.#prefixes && chunks.length === 1 && begunTokens === 0 && input.tokens === chunks[0].tokens;
    // Freed at once: memory that waits for the garbage collector makes the system clear new pages for each run.
    if (!isBlock) free(output.present);
    return { sampled, block: isBlock ? output.present : null };
  }

  /** Weighs a mixture whose prompt is cached, scores the rest of the prompt, and samples the first token. Returns whether it did. */
  async #startMixture(sequence: Sequence): Promise<0 | 1> {
    const { runner } = this.#parts;
    const arena = this.#rows.arenaOf(sequence);
    const states = (positions: readonly number[]) => arena.states(this.#rows.rowOf(sequence), positions);
    const parts = { runner, states };
    const fault = await weighMixture(sequence, parts);
    this.#parts.progressed?.();
    if (fault) this.#fail(sequence, this.#reportFault(fault));
    let sampled: 0 | 1 = 0;
    for await (const { heads, output } of headsAfterEvidence(sequence, parts)) {
      this.#parts.progressed?.();
      for (const error of headFaults(heads, output).values()) this.#fail(sequence, this.#reportFault(error));
      for (const head of heads) this.#guard(sequence, () => this.#read(head, output));
      if (!sequence.ended && heads.some(({ scoredId }) => scoredId === null)) sampled = 1;
    }
    return sampled;
  }

  /** Gives a sequence its row, with the keys and values that are cached already. */
  #seat(sequence: Sequence, lengthClass: LengthClass): void {
    sequence.admitted(this.#parts.now());
    if (this.#rows.isParked(sequence)) {
      this.#rows.resume(sequence, lengthClass);
      return;
    }
    this.#rows.open(sequence, lengthClass, sequence.promptTokens);
    if (!this.#prefixes) return;
    this.#prefixes.lead(sequence);
    for (const { block, tokens } of this.#prefixes.take(sequence)) {
      this.#rows.append([sequence], [tokens], block.present, block.ids.length);
      sequence.reusedTokens += tokens;
    }
    sequence.cachedTokens = sequence.reusedTokens;
  }

  /** Offers the chunk of `tokens` tokens that a prompt has just completed to the prefix cache. */
  #keepChunk(sequence: Sequence, tokens: number, block: Float32Array | null): void {
    const end = sequence.cachedTokens;
    const read = () => this.#rows.arenaOf(sequence).read(this.#rows.rowOf(sequence), end - tokens, end);
    this.#prefixes?.computed(sequence, end - tokens, end, () => block ?? read());
  }

  /** Scores a prompt token or samples the next one. */
  #read({ sequence, row, hiddenRow, baseRow, scoredId }: Head, output: StepOutput): void {
    const result = headResult(output, row);
    const { sampling } = sequence;
    const base = baseRow === null ? null : headResult(output, baseRow);
    const alternatives = alternativesOf(result, sampling.logprobs ?? 0);
    if (scoredId !== null) {
      const logprob = logprobOfTarget(result);
      if (sequence.trace && output.hidden)
        sequence.trace.add(headHidden(output.hidden, this.#parts.runner.config.hiddenSize, hiddenRow));
      sequence.addPromptScore({ logprob, alternatives, baseLogprob: base && logprobOfTarget(base) });
      return;
    }
    const tokenId = sampleToken(result, sampling, uniformAt(sampling.seed, sequence.completionTokens));
    const score = { logprob: logprobOf(result, tokenId), alternatives, baseLogprob: base && logprobOf(base, tokenId) };
    for (const frame of [sequence.takePromptFrame(), sequence.addToken(tokenId, score)]) {
      if (frame) this.#frames.push(frame);
    }
  }

  /** Ends a sequence whose prompt is cached, or starts to decode it. */
  #endPrefill(sequence: Sequence): void {
    sequence.prefilled(this.#parts.now());
    this.#prefixes?.leave(sequence);
    if (!this.#endIfFinished(sequence)) this.#rows.promote(sequence);
  }

  /** Sends the remaining frames of a sequence that has nothing more to compute. Returns whether it has ended. */
  #endIfFinished(sequence: Sequence): boolean {
    const promptFrame = sequence.takePromptFrame();
    if (promptFrame) this.#frames.push(promptFrame);
    if (sequence.finish === null) return false;
    sequence.trace?.done();
    this.#end(sequence, sequence.doneFrame(this.#parts.now()));
    return true;
  }

  /** A sequence whose adapters are cached waits for no other's. */
  async #enqueueWithAdapters(sequence: Sequence, batchAdapterId: string | null): Promise<void> {
    const acquiring = adapterIdsOf(sequence.request, batchAdapterId).map((id) => this.#parts.adapters.acquire(id));
    const acquired = await Promise.all(acquiring).catch(toServiceError);
    if (!(acquired instanceof ServiceError)) this.#guard(sequence, () => this.#enqueue(sequence, acquired));
    else if (!sequence.ended) this.#fail(sequence, acquired);
    this.#flush(null);
  }

  /** Throws a ServiceError where the queue is full. */
  #enqueue(sequence: Sequence, acquired: readonly AcquiredAdapter[]): void {
    sequence.queued(acquired, this.#parts.now());
    if (this.#endIfFinished(sequence)) return;
    this.#planner.enqueue(sequence);
    this.#prefixes?.arrive(sequence);
    this.#parts.queued?.();
  }

  #dropCancelled(): void {
    for (const id of this.#cancelled) {
      const sequence = this.#open.get(id);
      if (sequence) this.#fail(sequence, new ServiceError("cancelled", "The request was cancelled."));
    }
    this.#cancelled.clear();
  }

  #dropLate(): void {
    const nowMs = this.#parts.now();
    const isLate = ({ expires, dueMs }: Sequence) => expires && dueMs <= nowMs;
    for (const sequence of this.#planner.state.waiting.filter(isLate)) {
      const message = `The deadline was ${sequence.request.deadlineMs} ms; no slot became free in time.`;
      this.#fail(sequence, new ServiceError("deadline_exceeded", message));
    }
  }

  /** Runs `work` unless the sequence has ended. If `work` throws, only this sequence ends. */
  #guard(sequence: Sequence, work: () => void): void {
    if (sequence.ended) return;
    try {
      work();
    } catch (thrown) {
      // A failure during cleanup leaves shared state inconsistent; rethrow.
      if (sequence.ended) throw thrown;
      this.#fail(sequence, this.#reportFault(thrown));
    }
  }

  /** Converts to a ServiceError and reports engine faults. */
  #reportFault(thrown: unknown): ServiceError {
    const error = faultOf(thrown);
    if (error.kind === "generation_failed") this.#parts.faulted?.(error);
    return error;
  }

  #fail(sequence: Sequence, error: ServiceError): void {
    this.#end(sequence, errorFrame(sequence.id, error));
  }

  #end(sequence: Sequence, lastFrame: Frame): void {
    sequence.ended = true;
    this.#open.delete(sequence.id);
    this.#frames.push(lastFrame);
    this.#prefixes?.leave(sequence);
    this.#planner.remove(sequence);
    this.#rows.drop(sequence);
  }

  #flush(report: PhaseReport | null): void {
    if (this.#frames.length === 0 && !report) return;
    const frames = this.#frames;
    this.#frames = [];
    this.#parts.emit(frames, report);
  }
}

/** The adapters of a mixture or, without one, of the micro-batch (null: none). */
function adapterIdsOf({ mixture, tenant }: SequenceRequest, batchAdapterId: string | null): string[] {
  if (!mixture) return batchAdapterId === null ? [] : [batchAdapterId];
  return mixture.adapters.map((one) => ("centroidId" in one ? one.centroidId : ownAdapterId(tenant, one.adapterHash)));
}
