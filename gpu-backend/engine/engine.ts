/**
 * Continuous batching over one step runner. Sequences enter by `submit` and leave with their last frame, between the phases of
 * a step. The owner calls `step` while the engine is busy; frames go out through `emit`, phase by phase.
 *
 * A fault of one sequence (a result that is not finite, or anything thrown while it alone is handled) ends it in one error
 * frame and frees all it held; the others' bits do not change. If a whole step fails, `step` rejects and the engine is
 * unusable.
 */
import { setImmediate } from "node:timers/promises";
import { errorFrame, type Frame, type SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import type { MemoryRule } from "../../shared/math/memory.ts";
import type { AcquiredAdapter, AdapterCache } from "../adapters/generated/adapter-cache.ts";
import type { PrefixCache } from "../kv/prefix-cache.ts";
import { type MemoryCache, memoryDeleted } from "../memory/memory-cache.ts";
import type { ModelRunner, Pass, PassOutput } from "../runtime/model-runner.ts";
import { acquireGrammar, acquireMemories, adapterIdsOf, ownMemoriesOf } from "./acquisition.ts";
import type { Grammars } from "./grammars.ts";
import type { Head } from "./head-rows.ts";
import { chooseBrakes, memoriesOfHeads, passagesFor } from "./memory-steps.ts";
import type { EngineStats, PhaseReport, TracedValues } from "./messages.ts";
import { headsAfterEvidence, weighMixture } from "./mixture-steps.ts";
import { type Chunk, composePass, faultsOf, headFaults } from "./pass.ts";
import { nextChunk, type PlanLimits } from "./plan.ts";
import { Planner } from "./planner.ts";
import { readHead } from "./read-head.ts";
import { faultOf, sequenceRefusal } from "./refusals.ts";
import { Sequence } from "./sequence.ts";
import { SharedPrefixes } from "./shared-prefixes.ts";
import { statsOf } from "./stats.ts";
import { HiddenTrace, KeyTrace, type Traced } from "./traces.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** Maximum milliseconds that a step waits for grammars. A grammar takes .1 to .5 ms for most tokens, a step about 20. */
const grammarGraceMs = 1;

export interface EngineParts {
  runner: ModelRunner;
  adapters: AdapterCache;
  /** Absent: there are none. */
  memories?: { cache: MemoryCache; rule: MemoryRule };
  /** null: prompts are not cached. */
  prefixCache: PrefixCache | null;
  /** Absent: no sequence is held to a schema. */
  grammars?: Grammars;
  limits: PlanLimits;
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
  readonly #prefixes: SharedPrefixes<Sequence> | null;
  /** Every sequence that has not ended, by id. */
  readonly #open = new Map<string, Sequence>();
  /** Sequences that end before the next phase, by id, and why. */
  readonly #ending = new Map<string, ServiceError>();
  #frames: Frame[] = [];
  #preemptions = 0;
  /** Nothing can run before something changes. */
  #stalled = false;

  constructor(parts: EngineParts) {
    const { config, kv } = parts.runner;
    this.#parts = parts;
    this.#vocabulary = { ...config, textPieceOf: parts.textPieceOf };
    const { chunkTokens } = parts.limits;
    this.#prefixes = parts.prefixCache && new SharedPrefixes(parts.prefixCache, chunkTokens, kv.continuesChunks);
    this.#planner = new Planner(parts.limits, { kv, prefixes: this.#prefixes });
  }

  /** Whether `step` has something to do. */
  get busy(): boolean {
    const { waiting, running } = this.#planner.state;
    return this.#ending.size > 0 || (!this.#stalled && waiting.length + running.size > 0);
  }

  get stats(): EngineStats {
    return statsOf(this.#parts, this.#planner.state, this.#preemptions);
  }

  /**
   * Accepts a micro-batch under the adapter `adapterId` (a centroid's id, or a tenant's own; null is the base); a mixture names its
   * own adapters. A sequence that cannot be served ends in its error frame. Throws an Error for an id that is open. `traced` takes what
   * its kind gives of each prompt (messages.ts), before its last frame.
   */
  async submit(
    adapterId: string | null,
    requests: readonly SequenceRequest[],
    traced: (Traced & { take(id: string, values: TracedValues): void }) | null = null,
  ): Promise<void> {
    const taken = new Set(this.#open.keys());
    for (const { id } of requests) {
      if (taken.has(id)) throw new Error(`sequence ${id} is open already`);
      taken.add(id);
    }
    const accepted: Sequence[] = [];
    for (const [i, request] of requests.entries()) {
      try {
        const refusal = sequenceRefusal(request, this.#parts.runner.config);
        if (refusal) throw refusal;
        const take = (values: TracedValues) => traced?.take(request.id, values);
        const trace = traced && (traced.kind === "keys" ? new KeyTrace(take) : new HiddenTrace(traced.from[i], take));
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
    const error = new ServiceError("cancelled", "The request was cancelled.");
    for (const id of ids) if (this.#open.has(id)) this.#ending.set(id, error);
  }

  /** Drops a tenant's memory, or all of them (null), and ends the sequences that read it with `memory_deleted`. */
  dropMemory(tenant: string, hash: string | null): void {
    this.#parts.memories?.cache.delete(tenant, hash);
    for (const { id, request } of this.#open.values()) {
      if (request.tenant !== tenant) continue;
      const deleted = ownMemoriesOf(request).find((one) => hash === null || one === hash);
      if (deleted !== undefined) this.#ending.set(id, memoryDeleted(deleted));
    }
  }

  /** One step: executes one StepPlan. */
  async step(): Promise<void> {
    this.#dropEnding();
    this.#dropLate();
    await this.#awaitGrammars();
    const plan = this.#planner.nextStep();
    // Only sequences that await their grammars are left, and those that lack the memory that these have.
    this.#stalled = plan.prefill.length + plan.decode.length + plan.started.length + plan.parked.length === 0;
    const { kv } = this.#parts.runner;
    for (const sequence of plan.parked) kv.park(sequence.row);
    this.#preemptions += plan.parked.length;
    for (const sequence of plan.started) sequence.kv ??= kv.open(sequence.promptTokens);
    kv.place(Array.from(this.#planner.state.running, (one) => ({ kv: one.row, positions: nextPositions(one) })));
    for (const sequence of plan.started) this.#guard(sequence, () => this.#start(sequence));
    await this.#prefill(plan.prefill);
    this.#dropEnding();
    // What has its first token of this step's prefill needs its grammar again.
    await this.#awaitGrammars();
    await this.#decode(plan.decode.filter(({ ended, kv, awaitsGrammar }) => !ended && kv && !awaitsGrammar));
    kv.trim();
    this.#flush(null);
  }

  /** Computes the next chunk of each prompt, one prompt a pass: several would be padded to the longest without any gain. */
  async #prefill(sequences: readonly Sequence[]): Promise<void> {
    const startedMs = this.#parts.now();
    const { chunkTokens } = this.#parts.limits;
    const counts = { sequences: 0, tokens: 0, sampledTokens: 0 };
    for (const sequence of sequences) {
      if (sequence.ended) continue;
      const tokens = nextChunk(sequence.cachedTokens, sequence.pendingPromptTokens, chunkTokens);
      counts.sampledTokens += await this.#run("prefill", [{ sequence, tokens }]);
      this.#parts.progressed?.();
      counts.sequences++;
      counts.tokens += tokens;
      this.#guard(sequence, () => this.#keepChunk(sequence));
      this.#guard(sequence, () => this.#retrieve(sequence));
      if (sequence.ended || sequence.pendingPromptTokens > 0) continue;
      if (sequence.awaitsMixture) counts.sampledTokens += await this.#startAnswering(sequence);
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
    const chunks = sequences.map((sequence) => ({ sequence, tokens: 1 }));
    const sampledTokens = await this.#run("decode", chunks);
    for (const sequence of sequences) this.#guard(sequence, () => void this.#endIfFinished(sequence));
    const ms = this.#parts.now() - startedMs;
    this.#flush({ phase: "decode", ms, sequences: chunks.length, tokens: chunks.length, sampledTokens });
  }

  /** One pass of the trunk. Ends sequences whose results are not finite. Returns the number of sampled tokens. */
  async #run(phase: "prefill" | "decode", chunks: readonly Chunk[]): Promise<number> {
    const { pass, heads } = composePass(phase, chunks, this.#parts.runner.gates);
    const output = await this.#parts.runner.run(pass);
    const faults = faultsOf(chunks, heads, output);
    for (const [sequence, error] of faults) this.#fail(sequence, this.#reportFault(error));
    for (const { sequence } of chunks) await this.#chooseBrakes(sequence);
    await this.#readHeads(heads, pass.states, output);
    return heads.filter(({ scoredId, sequence }) => scoredId === null && !faults.has(sequence)).length;
  }

  /**
   * Of a mixture whose prompt is cached: weighs it, then its memories, scores the rest of the prompt, and samples the first token.
   * Returns whether it did.
   */
  async #startAnswering(sequence: Sequence): Promise<0 | 1> {
    const { runner, memories } = this.#parts;
    const fault = await weighMixture(sequence, runner, memories?.rule ?? null);
    this.#parts.progressed?.();
    if (fault) this.#fail(sequence, this.#reportFault(fault));
    await this.#chooseBrakes(sequence);
    let sampled: 0 | 1 = 0;
    for await (const { heads, states, output } of headsAfterEvidence(sequence, runner)) {
      this.#parts.progressed?.();
      for (const error of headFaults(heads, output).values()) this.#fail(sequence, this.#reportFault(error));
      await this.#readHeads(heads, states, output);
      if (!sequence.ended && heads.some(({ scoredId }) => scoredId === null)) sampled = 1;
    }
    return sampled;
  }

  async #chooseBrakes(sequence: Sequence): Promise<void> {
    const { runner, memories } = this.#parts;
    if (!memories || sequence.ended || !sequence.awaitsBrakes) return;
    const fault = await chooseBrakes(sequence, runner, memories.rule);
    this.#parts.progressed?.();
    if (fault) this.#fail(sequence, this.#reportFault(fault));
  }

  /** Gives a new sequence the keys and values that are cached already. */
  #start(sequence: Sequence): void {
    sequence.admitted(this.#parts.now());
    if (!this.#prefixes || sequence.cachedTokens > 0) return;
    this.#prefixes.lead(sequence);
    for (const { block, tokens } of this.#prefixes.take(sequence)) {
      this.#parts.runner.kv.write(sequence.row, block.kv, tokens);
    }
    sequence.reusedTokens = sequence.cachedTokens;
  }

  /** Offers the chunk that a prompt has just completed to the prefix cache. */
  #keepChunk(sequence: Sequence): void {
    const { cachedTokens: end, row } = sequence;
    const start = end - 1 - ((end - 1) % this.#parts.limits.chunkTokens);
    this.#prefixes?.computed(sequence, start, end, () => this.#parts.runner.kv.copy(row, start, end));
  }

  /** Puts passages into a prompt that is cached and wants some; then it starts again. */
  #retrieve(sequence: Sequence): void {
    if (!sequence.awaitsPassages || sequence.pendingPromptTokens > 0) return;
    const { kv, config } = this.#parts.runner;
    sequence.insertPassages(passagesFor(sequence, kv, config.contextTokens));
    if (this.#endIfFinished(sequence)) return;
    kv.close(sequence.row);
    sequence.kv = null;
    this.#prefixes?.leave(sequence);
    this.#planner.restart(sequence);
    this.#prefixes?.arrive(sequence);
  }

  /** Reads the results of all heads, with what memories say to them. */
  async #readHeads(heads: readonly Head[], states: Pass["states"], output: PassOutput): Promise<void> {
    const { runner, memories } = this.#parts;
    const says = memories && (await memoriesOfHeads(heads, states, { kv: runner.kv, rule: memories.rule }));
    const { hiddenSize } = runner.config;
    const model = { hiddenSize, rule: memories?.rule ?? null, textPieceOf: this.#parts.textPieceOf };
    for (const head of heads) {
      this.#guard(head.sequence, () => void this.#frames.push(...readHead(head, output, says?.get(head), model)));
    }
  }

  /** Ends a sequence whose prompt is cached, or starts to decode it. */
  #endPrefill(sequence: Sequence): void {
    sequence.prefilled(this.#parts.now());
    this.#prefixes?.leave(sequence);
    this.#endIfFinished(sequence);
  }

  /** Sends the remaining frames of a sequence that has nothing more to compute. Returns whether it has ended. */
  #endIfFinished(sequence: Sequence): boolean {
    const promptFrame = sequence.takePromptFrame();
    if (promptFrame) this.#frames.push(promptFrame);
    if (sequence.finish === null) return false;
    sequence.trace?.done(sequence.promptTokens, (position) => this.#parts.runner.kv.state(sequence.row, position));
    this.#end(sequence, sequence.doneFrame(this.#parts.now(), this.#parts.memories?.rule ?? null));
    return true;
  }

  /** A sequence whose adapters and memories are cached waits for no other's. */
  async #enqueueWithAdapters(sequence: Sequence, batchAdapterId: string | null): Promise<void> {
    const ids = adapterIdsOf(sequence.request, batchAdapterId);
    const acquiring = Promise.all(ids.map((id) => this.#parts.adapters.acquire(id)));
    const acquired = await Promise.all([
      acquiring,
      acquireMemories(sequence, this.#parts.memories?.cache, this.#parts.textPieceOf),
      acquireGrammar(sequence, this.#parts.grammars, (error) => {
        if (error) this.#ending.set(sequence.id, error);
        this.#resume();
      }),
    ]).catch(toServiceError);
    if (!(acquired instanceof ServiceError)) this.#guard(sequence, () => this.#enqueue(sequence, acquired[0]));
    else if (!sequence.ended) this.#fail(sequence, acquired);
    this.#flush(null);
  }

  /** Gives grammars a moment, so that a sequence whose tokens are known soon misses no step. */
  async #awaitGrammars(): Promise<void> {
    const awaits = () => this.#planner.state.running.values().some(({ awaitsGrammar }) => awaitsGrammar);
    const untilMs = this.#parts.now() + grammarGraceMs;
    while (awaits() && this.#parts.now() < untilMs) await setImmediate();
  }

  #resume(): void {
    this.#stalled = false;
    this.#parts.queued?.();
  }

  /** Throws a ServiceError where the queue is full. */
  #enqueue(sequence: Sequence, acquired: readonly AcquiredAdapter[]): void {
    sequence.queued(acquired, this.#parts.now());
    if (this.#endIfFinished(sequence)) return;
    this.#planner.enqueue(sequence);
    this.#prefixes?.arrive(sequence);
    this.#resume();
  }

  #dropEnding(): void {
    for (const [id, error] of this.#ending) {
      const sequence = this.#open.get(id);
      if (sequence) this.#fail(sequence, error);
    }
    this.#ending.clear();
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
    if (sequence.kv) this.#parts.runner.kv.close(sequence.kv);
    sequence.kv = null;
    sequence.grammar?.close();
    this.#stalled = false;
    for (const memory of sequence.memories.splice(0)) this.#parts.memories?.cache.release(memory);
  }

  #flush(report: PhaseReport | null): void {
    if (this.#frames.length === 0 && !report) return;
    const frames = this.#frames;
    this.#frames = [];
    this.#parts.emit(frames, report);
  }
}

/** Positions that a running sequence holds at the end of its next step, at most. */
function nextPositions({ cachedTokens, pendingPromptTokens, maxPositions }: Sequence): number {
  return Math.min(cachedTokens + pendingPromptTokens + 1, maxPositions);
}
