/**
 * The engine: continuous batching over one step runner. Sequences come in with `submit`, leave by their last frame,
 * and join or leave between the phases of a step. It owns no thread and no loop; whoever does calls `step` while it is
 * busy. Frames go out through `emit`, phase by phase.
 *
 * A fault of one sequence (a result that is not a number, anything thrown while only that sequence is handled) ends it in
 * one error frame and gives back all it held; the others go on to the same bits. What is thrown by a whole step, such as
 * a failed run of the session, concerns all sequences: `step` rejects, and the engine must not be used any more.
 */
import { errorFrame, type Frame, type SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { uniformAt } from "../../shared/math/sampling.ts";
import type { AcquiredAdapter, AdapterCache } from "../adapters/adapter-cache.ts";
import { PoolSlots } from "../adapters/pool-slots.ts";
import type { PromptBiasSource } from "../adapters/prompt-bias.ts";
import { KvArena } from "../kv/arena.ts";
import { KvBudget } from "../kv/kv-budget.ts";
import type { PrefixCache } from "../kv/prefix-cache.ts";
import type { StepOutput, StepRunner } from "../runtime/step.ts";
import { HiddenTrace } from "./hidden-trace.ts";
import { faultOf, needsPool, sequenceRefusal } from "./refusals.ts";
import type { EngineStats, PhaseReport } from "./reports.ts";
import { faultsOf } from "./result-check.ts";
import { alternativesOf, headHidden, headResult, logprobOf, sampleToken } from "./sampler.ts";
import { type Admission, type Pass, Scheduler, type SchedulerLimits } from "./scheduler.ts";
import { type Score, Sequence, type Vocabulary } from "./sequence.ts";
import { SharedPrefixes } from "./shared-prefixes.ts";
import { composePhase, type Head } from "./step-input.ts";

export interface EngineParts {
  runner: StepRunner;
  adapters: AdapterCache;
  /** Absent: none is worn. */
  promptBias?: PromptBiasSource;
  /** null keeps nothing of a prompt. */
  prefixCache: PrefixCache | null;
  limits: SchedulerLimits;
  /** Bound on the memory of keys and values of running and parked sequences. */
  kvBytes: number;
  pieceOf(id: number): Uint8Array;
  /** Milliseconds of a clock that only goes forward. */
  now(): number;
  emit(frames: Frame[], report: PhaseReport | null): void;
  /** A sequence ended because it cannot be computed; `error.cause` is what was thrown. */
  faulted?(error: ServiceError): void;
}

export class Engine {
  readonly #parts: EngineParts;
  readonly #vocabulary: Vocabulary;
  readonly #scheduler: Scheduler<Sequence>;
  readonly #arena: KvArena;
  readonly #pool: PoolSlots | null;
  readonly #prefixes: SharedPrefixes<Sequence> | null;
  /** Every sequence that has not ended, by id. */
  readonly #open = new Map<string, Sequence>();
  readonly #cancelled = new Set<string>();
  #frames: Frame[] = [];

  constructor(parts: EngineParts) {
    const { config } = parts.runner;
    const kvShape = { ...config, headWidth: config.hiddenSize / config.heads };
    this.#parts = parts;
    this.#vocabulary = { ...config, pieceOf: parts.pieceOf };
    this.#scheduler = new Scheduler(parts.limits, new KvBudget(kvShape, parts.kvBytes));
    this.#pool = parts.runner.pool && new PoolSlots(parts.runner.pool);
    this.#prefixes = parts.prefixCache && new SharedPrefixes(parts.prefixCache, parts.limits.chunkTokens);
    this.#arena = new KvArena({
      ...kvShape,
      maximumRows: parts.limits.maxSequences,
      maximumBytes: parts.kvBytes,
    });
  }

  /** Whether `step` has something to do. */
  get busy(): boolean {
    return this.#scheduler.waiting > 0 || this.#scheduler.running > 0 || this.#cancelled.size > 0;
  }

  get stats(): EngineStats {
    return {
      waiting: this.#scheduler.waiting,
      parked: this.#scheduler.parked,
      preemptions: this.#scheduler.preemptions,
      heldRows: this.#scheduler.heldRows,
      running: this.#scheduler.running,
      slots: this.#parts.limits.maxSequences,
      kvBytes: this.#arena.bytes,
      prefixes: this.#parts.prefixCache?.stats ?? null,
      adapters: this.#parts.adapters.stats,
      pool: this.#pool?.stats ?? null,
    };
  }

  /**
   * Takes in a micro-batch that wears the adapter of `adapterId` (a centroid's id, or a tenant's own; null is the base).
   * What cannot be served ends in its error frame. Throws an Error for an id that is open already: its frames could not
   * be told apart. `traced` gets the hidden states of each prompt but its last token, [N, D], before its last frame.
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
        this.#frames.push(errorFrame(request.id, this.#noted(thrown)));
      }
    }
    let acquired: AcquiredAdapter | null = null;
    try {
      if (adapterId !== null && accepted.length > 0) {
        acquired = await this.#parts.adapters.acquire(adapterId, accepted.length);
      }
    } catch (error) {
      for (const sequence of accepted) this.#fail(sequence, toServiceError(error));
    }
    for (const sequence of accepted) {
      if (sequence.ended) {
        if (acquired) this.#parts.adapters.release(acquired.adapter);
        continue;
      }
      sequence.acquired = acquired;
      this.#guard(sequence, () => this.#enqueue(sequence, adapterId));
    }
    this.#flush(null);
  }

  /** Ends sequences with an error frame "cancelled" before the next phase runs. Unknown ids are ignored. */
  cancel(ids: readonly string[]): void {
    for (const id of ids) if (this.#open.has(id)) this.#cancelled.add(id);
  }

  /** One step: admission, then a prefill and a decode phase, each where there is something to do. */
  async step(): Promise<void> {
    this.#dropCancelled();
    this.#dropLate();
    const unfit = new Map<Sequence, unknown>();
    for (const admission of this.#scheduler.admit(this.#parts.now(), this.#claims(unfit))) this.#seat(admission);
    for (const [sequence, thrown] of unfit) this.#fail(sequence, this.#noted(thrown));
    this.#scheduler.share();
    for (const pass of this.#scheduler.prefillPasses()) await this.#run("prefill", pass);
    this.#dropCancelled();
    const { moves, ...decode } = this.#scheduler.decodePhase();
    this.#arena.follow(moves);
    await this.#run("decode", decode);
    this.#arena.trim();
    this.#flush(null);
  }

  async #run(phase: "prefill" | "decode", pass: Pass<Sequence>): Promise<void> {
    const { firstRow, begunTokens, chunks } = pass;
    if (chunks.length === 0) return;
    const startedMs = this.#parts.now();
    const longestChunk = chunks.reduce((longest, { tokens }) => Math.max(longest, tokens), 0);
    const feed = { ...this.#arena.feed(firstRow, chunks.length, longestChunk), begunTokens };
    const { input, heads } = composePhase(phase, chunks, feed, this.#parts.runner.gates);
    const output = await this.#parts.runner.run(input);
    const faults = faultsOf({ chunks, heads, tokens: input.tokens }, output, this.#parts.runner.config);
    const isSound = ({ sequence }: { sequence: Sequence }) => !faults.has(sequence);
    // A mask only adds to a score, so one value in the arena that is not finite would spoil whoever gets the row next.
    this.#arena.append(
      firstRow,
      chunks.map((chunk) => (isSound(chunk) ? chunk.tokens : 0)),
      output.present,
      input.tokens,
    );
    const sound = chunks.filter(isSound);
    const isPrefill = phase === "prefill";
    if (isPrefill) this.#keepBlocks(pass, faults);
    for (const { sequence, tokens } of sound) sequence.cachedTokens += tokens;
    const cached = sound.filter(({ sequence: { pendingTokens, pendingPromptTokens } }) =>
      isPrefill ? pendingPromptTokens === 0 : pendingTokens === 0,
    );
    for (const [sequence, error] of faults) this.#fail(sequence, this.#noted(error));
    for (const head of heads) this.#guard(head.sequence, () => this.#read(head, output));
    for (const { sequence } of cached) this.#guard(sequence, () => this.#settle(sequence, phase));
    const ms = this.#parts.now() - startedMs;
    this.#scheduler.ran(phase, pass, ms);
    this.#flush({
      phase,
      ms,
      sequences: chunks.length,
      tokens: chunks.reduce((sum, chunk) => sum + chunk.tokens, 0),
      sampledTokens: heads.filter((head) => head.scoredId === null && isSound(head)).length,
    });
  }

  /** Gives a sequence its row, with all that is known of it already. */
  #seat({ sequence, parked, moves }: Admission<Sequence>): void {
    if (parked) {
      parked.sequence.parkedAs = this.#arena.park(parked.row, parked.moves);
      this.#releasePoolSlot(parked.sequence);
    }
    sequence.admitted(this.#parts.now());
    if (sequence.parkedAs === null) {
      this.#arena.open(sequence.promptTokens);
      this.#reusePrefix(sequence);
      return;
    }
    this.#arena.resume(sequence.parkedAs);
    sequence.parkedAs = null;
    this.#arena.follow(moves);
  }

  /** Fills a sequence's new row with what the prefix cache has of its beginning. */
  #reusePrefix(sequence: Sequence): void {
    for (const { block, tokens } of this.#prefixes?.take(sequence) ?? []) {
      this.#arena.append(this.#arena.rows - 1, [tokens], block.present, block.ids.length);
      sequence.reusedTokens += tokens;
    }
    sequence.cachedTokens = sequence.reusedTokens;
  }

  /** Offers the chunks of a prefill pass to the prefix cache, but for those of `faults`. */
  #keepBlocks({ firstRow, begunTokens, chunks }: Pass<Sequence>, faults: ReadonlyMap<Sequence, unknown>): void {
    chunks.forEach(({ sequence, tokens }, s) => {
      if (faults.has(sequence)) return;
      const start = sequence.cachedTokens - begunTokens;
      const end = sequence.cachedTokens + tokens;
      // What is cut short here goes on in a later step.
      if (end - start < this.#parts.limits.chunkTokens && end < sequence.promptTokens) return;
      this.#prefixes?.computed(sequence, start, end, () => this.#arena.read(firstRow + s, start, end));
    });
  }

  /** Scores a prompt token or samples the next one. */
  #read({ sequence, row, baseRow, scoredId }: Head, output: StepOutput): void {
    const result = headResult(output, row);
    const { sampling } = sequence.request;
    const base = baseRow === null ? null : headResult(output, baseRow);
    const alternatives = alternativesOf(result, sampling.logprobs ?? 0);
    if (scoredId !== null) {
      const logprob = result.targetLogit - result.logSumExp;
      if (sequence.trace && output.hidden) sequence.trace.add(headHidden(output, row));
      sequence.scored({ logprob, alternatives, baseLogprob: base && base.targetLogit - base.logSumExp });
      return;
    }
    const tokenId = sampleToken(result, sampling, uniformAt(sampling.seed, sequence.completionTokens));
    const score: Score = {
      logprob: logprobOf(result, tokenId),
      alternatives,
      baseLogprob: base && logprobOf(base, tokenId),
    };
    const promptFrame = sequence.takePromptFrame();
    if (promptFrame) this.#frames.push(promptFrame);
    const frame = sequence.took(tokenId, score);
    if (frame) this.#frames.push(frame);
  }

  /** A sequence whose prompt, or in decoding all of whose tokens, are cached ends or goes on decoding. */
  #settle(sequence: Sequence, phase: "prefill" | "decode"): void {
    if (phase === "prefill") {
      sequence.prefilled(this.#parts.now());
      this.#prefixes?.leave(sequence);
    }
    if (this.#endIfFinished(sequence)) return;
    if (phase === "prefill") this.#arena.follow(this.#scheduler.promote(sequence));
  }

  /** Sends what is left to send of a sequence that has nothing more to compute. */
  #endIfFinished(sequence: Sequence): boolean {
    const promptFrame = sequence.takePromptFrame();
    if (promptFrame) this.#frames.push(promptFrame);
    if (sequence.finish === null) return false;
    sequence.trace?.done();
    this.#end(sequence, sequence.doneFrame(this.#parts.now()));
    return true;
  }

  /** Throws a ServiceError where the queue is full. */
  #enqueue(sequence: Sequence, adapterId: string | null): void {
    const { acquired } = sequence;
    const { promptBias = false, promptIds } = sequence.request;
    // A tenant's adapter may have counted the same words already.
    const wearsPromptBias = promptBias && adapterId !== null && acquired !== null && !acquired.adapter.bias;
    const worn = (wearsPromptBias && this.#parts.promptBias?.(adapterId, promptIds)) || null;
    sequence.queued(worn, this.#parts.now());
    if (this.#endIfFinished(sequence)) return;
    this.#scheduler.enqueue(sequence);
    this.#prefixes?.arrive(sequence);
  }

  /**
   * Claims what the sequences of one admission need besides KV: that nobody computes the same, and a pool slot. A
   * sequence whose claim throws is not admitted; `unfit` gets what was thrown.
   */
  #claims(unfit: Map<Sequence, unknown>): (sequence: Sequence) => boolean {
    const claimPoolSlot = this.#poolClaims();
    return (sequence) => {
      // A parked sequence goes on by itself.
      const isNew = sequence.parkedAs === null;
      try {
        if (isNew && this.#prefixes?.mustWait(sequence)) return false;
        if (!claimPoolSlot(sequence)) return false;
        if (isNew) this.#prefixes?.lead(sequence);
        return true;
      } catch (thrown) {
        unfit.set(sequence, thrown);
        return false;
      }
    };
  }

  /**
   * Claims pool slots for the sequences of one admission. Once one finds none, no later one gets any, not even one whose
   * adapter has a slot: else a busy centroid would keep its slot forever, and whoever waits for it would starve.
   */
  #poolClaims(): (sequence: Sequence) => boolean {
    let isSlotAwaited = false;
    return (sequence) => {
      const adapter = sequence.acquired?.adapter;
      if (!adapter?.directions) return true;
      if (isSlotAwaited) return false;
      if (!this.#pool) throw needsPool(adapter);
      sequence.poolSlot = this.#pool.take(adapter);
      isSlotAwaited = sequence.poolSlot === null;
      return !isSlotAwaited;
    };
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
    for (const sequence of this.#scheduler.late(nowMs)) {
      const message = `The deadline was ${sequence.request.deadlineMs} ms; no slot became free in time.`;
      this.#fail(sequence, new ServiceError("deadline_exceeded", message));
    }
  }

  /** Runs what concerns one sequence alone, unless it has ended; where that throws, it ends. */
  #guard(sequence: Sequence, work: () => void): void {
    if (sequence.ended) return;
    try {
      work();
    } catch (thrown) {
      // What fails while it ends has left the books of all sequences half done.
      if (sequence.ended) throw thrown;
      this.#fail(sequence, this.#noted(thrown));
    }
  }

  /** The error that ends a sequence for which `thrown` was thrown, once whoever keeps the log knows of it. */
  #noted(thrown: unknown): ServiceError {
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
    const moves = this.#scheduler.remove(sequence);
    if (moves) this.#arena.close(moves);
    if (sequence.parkedAs !== null) this.#arena.discard(sequence.parkedAs);
    this.#releasePoolSlot(sequence);
    if (sequence.acquired) this.#parts.adapters.release(sequence.acquired.adapter);
  }

  #releasePoolSlot(sequence: Sequence): void {
    if (sequence.poolSlot === null || !sequence.acquired) return;
    this.#pool?.release(sequence.acquired.adapter);
    sequence.poolSlot = null;
  }

  #flush(report: PhaseReport | null): void {
    if (this.#frames.length === 0 && !report) return;
    const frames = this.#frames;
    this.#frames = [];
    this.#parts.emit(frames, report);
  }
}
