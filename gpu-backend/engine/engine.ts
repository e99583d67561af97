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
import { ServiceError } from "../../shared/errors.ts";
import { uniformAt } from "../../shared/math/sampling.ts";
import type { AdapterCache } from "../adapters/adapter-cache.ts";
import { KvArena } from "../kv/arena.ts";
import { KvBudget } from "../kv/kv-budget.ts";
import type { PrefixCache } from "../kv/prefix-cache.ts";
import type { StepOutput, StepRunner } from "../runtime/step.ts";
import { AdapterClaims } from "./adapter-claims.ts";
import type { Head } from "./head-rows.ts";
import { HiddenTrace } from "./hidden-trace.ts";
import { groupsToWeigh, sampleFirst, scoreAfterEvidence, weighMixtures } from "./mixture-steps.ts";
import { faultOf, sequenceRefusal } from "./refusals.ts";
import type { EngineStats, PhaseReport } from "./reports.ts";
import { faultsOf, headFaults } from "./result-check.ts";
import { alternativesOf, headHidden, headResult, logprobOf, logprobOfTarget, sampleToken } from "./sampler.ts";
import { type Admission, type Pass, Scheduler, type SchedulerLimits } from "./scheduler.ts";
import { type Score, Sequence, type Vocabulary } from "./sequence.ts";
import { SharedPrefixes } from "./shared-prefixes.ts";
import { composePhase } from "./step-input.ts";

export interface EngineParts {
  runner: StepRunner;
  adapters: AdapterCache;
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
  readonly #claims: AdapterClaims;
  readonly #prefixes: SharedPrefixes<Sequence> | null;
  /** Every sequence that has not ended, by id. */
  readonly #open = new Map<string, Sequence>();
  readonly #cancelled = new Set<string>();
  #frames: Frame[] = [];

  constructor(parts: EngineParts) {
    const { config } = parts.runner;
    // One pair more than there are layers: the pointer's keys, and states of which the head can be computed again.
    const kvShape = { ...config, layers: config.layers + 1, headWidth: config.hiddenSize / config.heads };
    this.#parts = parts;
    this.#vocabulary = { ...config, pieceOf: parts.pieceOf };
    this.#scheduler = new Scheduler(parts.limits, new KvBudget(kvShape, parts.kvBytes));
    this.#claims = new AdapterClaims(parts.adapters, parts.runner.pool);
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
      kvUsedBytes: this.#arena.usedBytes,
      kvCapacityBytes: this.#parts.kvBytes,
      prefixes: this.#parts.prefixCache?.stats ?? null,
      adapters: this.#parts.adapters.stats,
      pool: this.#claims.poolStats,
    };
  }

  /**
   * Takes in a micro-batch of the adapter `adapterId` (a centroid's id, or a tenant's own; null is the base); a sequence with
   * a mixture has adapters of its own.
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
        this.#frames.push(errorFrame(request.id, this.#reportFault(thrown)));
      }
    }
    await this.#claims.acquire(accepted, adapterId, (sequence, acquired) => {
      if (acquired instanceof ServiceError) return this.#fail(sequence, acquired);
      sequence.adapters = acquired;
      this.#guard(sequence, () => this.#enqueue(sequence));
    });
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
    const claims = this.#admissionClaims(unfit);
    for (const admission of this.#scheduler.admit(this.#parts.now(), claims)) this.#seat(admission);
    for (const [sequence, thrown] of unfit) this.#fail(sequence, this.#reportFault(thrown));
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
    for (const [sequence, error] of faults) this.#fail(sequence, this.#reportFault(error));
    for (const head of heads) this.#guard(head.sequence, () => this.#read(head, output));
    const first = isPrefill ? await this.#startMixtures(cached.map(({ sequence }) => sequence)) : 0;
    for (const { sequence } of cached) this.#guard(sequence, () => this.#settle(sequence, phase));
    const ms = this.#parts.now() - startedMs;
    this.#scheduler.ran(phase, pass, ms);
    this.#flush({
      phase,
      ms,
      sequences: chunks.length,
      tokens: chunks.reduce((sum, chunk) => sum + chunk.tokens, 0),
      sampledTokens: first + heads.filter((head) => head.scoredId === null && isSound(head)).length,
    });
  }

  /**
   * Weighs the mixtures among sequences whose prompt is cached, scores what is left of their prompts, and samples their first
   * tokens. Returns how many it sampled.
   */
  async #startMixtures(prefilled: readonly Sequence[]): Promise<number> {
    const parts = { runner: this.#parts.runner, arena: this.#arena };
    // Rows move where a sequence ends.
    const rowOf = (sequence: Sequence) => this.#scheduler.rowOf(sequence)!;
    const rowsOf = (group: readonly Sequence[]) => new Map(group.map((sequence) => [sequence, rowOf(sequence)]));
    let sampled = 0;
    for (const group of groupsToWeigh(prefilled.filter(({ isMixed, ended }) => isMixed && !ended))) {
      const { faults, experts } = await weighMixtures(rowsOf(group), parts);
      for (const [sequence, fault] of faults) this.#fail(sequence, this.#reportFault(fault));
      for (const sequence of group.filter(({ ended, request }) => !ended && request.promptLogprobs)) {
        for await (const { heads, output } of scoreAfterEvidence(sequence, () => rowOf(sequence), parts))
          this.#readChecked(heads, output);
      }
      const first = group.filter((sequence) => !sequence.ended && experts.has(sequence));
      if (first.length === 0) continue;
      const { heads, output } = await sampleFirst(rowsOf(first), experts, parts);
      this.#readChecked(heads, output);
      sampled += heads.length;
    }
    return sampled;
  }

  /** Reads the heads of a run of the head alone, after those whose results are not numbers have ended. */
  #readChecked(heads: readonly Head[], output: StepOutput): void {
    for (const [sequence, error] of headFaults(heads, output)) this.#fail(sequence, this.#reportFault(error));
    for (const head of heads) this.#guard(head.sequence, () => this.#read(head, output));
  }

  /** Gives a sequence its row, with all that is known of it already. */
  #seat({ sequence, parked, moves }: Admission<Sequence>): void {
    if (parked) {
      parked.sequence.parkedAs = this.#arena.park(parked.row, parked.moves);
      this.#claims.releaseSlots(parked.sequence);
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
  #read({ sequence, isMixed, row, hiddenRow, baseRow, scoredId }: Head, output: StepOutput): void {
    const result = headResult(isMixed ? output.mixed!.rows! : output, row);
    const { sampling } = sequence.request;
    const base = baseRow === null ? null : headResult(output, baseRow);
    const alternatives = alternativesOf(result, sampling.logprobs ?? 0);
    if (scoredId !== null) {
      const logprob = logprobOfTarget(result);
      if (sequence.trace && output.hidden)
        sequence.trace.add(headHidden(output.hidden, this.#parts.runner.config.hiddenSize, hiddenRow));
      sequence.scored({ logprob, alternatives, baseLogprob: base && logprobOfTarget(base) });
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
  #enqueue(sequence: Sequence): void {
    sequence.queued(this.#parts.now());
    if (this.#endIfFinished(sequence)) return;
    this.#scheduler.enqueue(sequence);
    this.#prefixes?.arrive(sequence);
  }

  /**
   * Claims what the sequences of one admission need besides KV: that nobody computes the same, and pool slots. A
   * sequence whose claim throws is not admitted; `unfit` gets what was thrown.
   */
  #admissionClaims(unfit: Map<Sequence, unknown>): (sequence: Sequence) => boolean {
    const claimPoolSlots = this.#claims.slotClaims();
    return (sequence) => {
      // A parked sequence goes on by itself.
      const isNew = sequence.parkedAs === null;
      try {
        if (isNew && this.#prefixes?.mustWait(sequence)) return false;
        if (!claimPoolSlots(sequence)) return false;
        if (isNew) this.#prefixes?.lead(sequence);
        return true;
      } catch (thrown) {
        unfit.set(sequence, thrown);
        return false;
      }
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
    const moves = this.#scheduler.remove(sequence);
    if (moves) this.#arena.close(moves);
    if (sequence.parkedAs !== null) this.#arena.discard(sequence.parkedAs);
    this.#claims.release(sequence);
  }

  #flush(report: PhaseReport | null): void {
    if (this.#frames.length === 0 && !report) return;
    const frames = this.#frames;
    this.#frames = [];
    this.#parts.emit(frames, report);
  }
}
