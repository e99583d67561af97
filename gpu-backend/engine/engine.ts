/**
 * Continuous batching over one model runner. A step has two phases, prefill and decode. Sequences enter and leave between phases.
 *
 * A fault of one sequence ends only this sequence, and the bits of other sequences do not change. If a whole step fails, `step` rejects
 * and the engine is unusable.
 */
import { setImmediate } from "node:timers/promises";
import { errorFrame, type Frame, memoriesOf, type SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import type { AcquiredAdapter } from "../adapters/generated/adapter-cache.ts";
import type { Pass, PassOutput } from "../kv/runner.ts";
import { memoryDeleted } from "../memory/memory-cache.ts";
import { acquireGrammar, acquireMemories, adapterIdsOf } from "./acquisition.ts";
import { chunksOf, DraftCounts, isReached, lengthAfter, nextToken } from "./draft-steps.ts";
import type { EngineParts } from "./engine-parts.ts";
import type { Head } from "./head-rows.ts";
import { chooseBrakes, memoriesOfHeads, passagesFor, queryOf, type Searched } from "./memory-steps.ts";
import type { EngineStats, PhaseReport } from "./messages.ts";
import { headsAfterEvidence, weighMixture } from "./mixture-steps.ts";
import { type Chunk, composePass, faultsOf } from "./pass.ts";
import { nextChunk } from "./plan.ts";
import { Planner } from "./planner.ts";
import { readHead } from "./read-head.ts";
import { faultOf, sequenceRefusal } from "./refusals.ts";
import { Sequence } from "./sequence.ts";
import { SharedPrefixes } from "./shared-prefixes.ts";
import { readKeys, type Traced, type TracedValues, tracedValues } from "./traces.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** Time that a step waits for grammars. A grammar mostly takes .1 to .5 ms a token, a step about 20 ms. */
const grammarGraceMs = 1;

export class Engine {
  readonly #parts: EngineParts;
  readonly #vocabulary: Vocabulary;
  readonly #planner: Planner<Sequence>;
  readonly #prefixes: SharedPrefixes | null;
  readonly #open = new Map<string, Sequence>();
  /** Errors of sequences that end before the next phase, by id. */
  readonly #ending = new Map<string, ServiceError>();
  #frames: Frame[] = [];
  #preemptions = 0;
  readonly #drafts = new DraftCounts();
  #stalled = false;

  constructor(parts: EngineParts) {
    const { runner, prefixCache, limits, textPieceOf } = parts;
    this.#parts = parts;
    this.#vocabulary = { ...runner.config, textPieceOf };
    this.#prefixes = prefixCache && new SharedPrefixes(prefixCache, limits.chunkTokens, runner.kv.continuesChunks);
    this.#planner = new Planner(limits, { kv: runner.kv, prefixes: this.#prefixes });
  }

  get busy(): boolean {
    const { waiting, running } = this.#planner.state;
    return this.#ending.size > 0 || (!this.#stalled && waiting.length + running.size > 0);
  }

  get stats(): EngineStats {
    const { runner, adapters, memories, prefixCache, limits } = this.#parts;
    const { waiting, running } = this.#planner.state;
    return {
      waiting: waiting.length,
      parked: waiting.filter((sequence) => sequence.kv).length,
      preemptions: this.#preemptions,
      drafts: { ...this.#drafts.counts },
      running: running.size,
      slots: limits.maxSequences,
      kvBytes: runner.kv.bytes,
      kvUsedBytes: runner.kv.usedBytes,
      kvCapacityBytes: runner.kv.capacityBytes,
      prefixes: prefixCache?.stats ?? null,
      adapters: adapters.stats,
      memories: memories?.cache.stats ?? null,
    };
  }

  /**
   * If `adapterId` is null, the base answers. Sequences with a mixture name their own adapters. A sequence that cannot be served ends in
   * an error frame. `take` is called before the last frame of each traced prompt (traces.ts). Throws an Error if a sequence of the same
   * id is open.
   */
  async submit(
    adapterId: string | null,
    requests: readonly SequenceRequest[],
    traced: (Traced & { take(id: string, values: TracedValues): void }) | null = null,
  ): Promise<void> {
    const ids = requests.map(({ id }) => id);
    const again = ids.find((id, i) => this.#open.has(id) || ids.indexOf(id) < i);
    if (again !== undefined) throw new Error(`sequence ${again} is open already`);
    const accepted: Sequence[] = [];
    for (const [i, request] of requests.entries()) {
      try {
        const refusal = sequenceRefusal(request, this.#parts.runner.config);
        if (refusal) throw refusal;
        const from = traced?.kind === "hidden" ? traced.from[i] : 1;
        const take = (values: TracedValues) => traced?.take(request.id, values);
        const trace = traced && { kind: traced.kind, from, hidden: [], keys: new Int8Array(0), take };
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

  /** Ends the sequences before the next phase. Unknown ids are ignored. */
  cancel(ids: readonly string[]): void {
    const error = new ServiceError("cancelled", "The request was cancelled.");
    for (const id of ids) if (this.#open.has(id)) this.#ending.set(id, error);
  }

  /** If `hash` is null, all memories of the tenant are dropped. Sequences that read a dropped memory end in `memory_deleted`. */
  dropMemory(tenant: string, hash: string | null): void {
    this.#parts.memories?.cache.delete(tenant, hash);
    for (const { id, request } of this.#open.values()) {
      if (request.tenant !== tenant) continue;
      const deleted = memoriesOf({ sequences: [request] }).find((one) => hash === null || one === hash);
      if (deleted) this.#ending.set(id, memoryDeleted(deleted));
    }
  }

  async step(): Promise<void> {
    this.#dropEnding();
    this.#dropLate();
    await this.#awaitGrammars();
    const plan = this.#planner.nextStep();
    // If nothing can run, running sequences await their grammars, and waiting sequences await the memory of running ones.
    this.#stalled = plan.prefill.length + plan.decode.length + plan.started.length + plan.parked.length === 0;
    const { kv } = this.#parts.runner;
    for (const sequence of plan.parked) kv.park(sequence.row);
    this.#preemptions += plan.parked.length;
    for (const sequence of plan.started) sequence.kv ??= kv.open(sequence.promptTokens);
    this.#place();
    for (const sequence of plan.started) this.#guard(sequence, () => this.#start(sequence));
    await this.#prefill(plan.prefill);
    this.#dropEnding();
    // A sequence whose first token was sampled in this step's prefill awaits its grammar again.
    await this.#awaitGrammars();
    await this.#decode(plan.decode.filter(({ ended, kv, awaitsGrammar }) => !ended && kv && !awaitsGrammar));
    kv.trim();
    this.#flush(null);
  }

  /** Each prompt has a pass of its own, because joining prompts gains nothing and needs padding. */
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
      await this.#readStates(sequence).catch((thrown) => this.#failBy(sequence, thrown));
      if (sequence.ended || sequence.pendingPromptTokens > 0) continue;
      if (sequence.awaitsMixture) counts.sampledTokens += await this.#startAnswering(sequence);
      this.#guard(sequence, () => this.#endPrefill(sequence));
      this.#flush(null);
    }
    if (counts.sequences === 0) return;
    this.#flush({ phase: "prefill", ms: this.#parts.now() - startedMs, ...counts });
  }

  async #decode(sequences: readonly Sequence[]): Promise<void> {
    if (sequences.length === 0) return;
    const startedMs = this.#parts.now();
    const chunks = chunksOf(sequences, this.#parts.runner.draftCost);
    const [first] = chunks;
    if (lengthAfter(first) > first.sequence.nextPositions) this.#place(first);
    const sampledTokens = await this.#run("decode", chunks);
    if (first.drafts && !first.sequence.ended) this.#drafts.learn(first, sampledTokens - 1, this.#parts.runner.kv);
    this.#planner.decoded(first.sequence, first.tokens - 1 + Math.max(0, sampledTokens - sequences.length));
    for (const sequence of sequences) this.#guard(sequence, () => void this.#endIfFinished(sequence));
    const ms = this.#parts.now() - startedMs;
    const tokens = chunks.reduce((sum, chunk) => sum + chunk.tokens + (chunk.drafts?.length ?? 0), 0);
    this.#flush({ phase: "decode", ms, sequences: chunks.length, tokens, sampledTokens });
  }

  /** `chunk`: of a sequence whose next pass has several tokens. */
  #place(chunk: Chunk | null = null): void {
    const rows = Array.from(this.#planner.state.running, (one) => {
      return { kv: one.row, positions: chunk?.sequence === one ? lengthAfter(chunk) : one.nextPositions };
    });
    this.#parts.runner.kv.place(rows);
  }

  /** Returns the number of sampled tokens. */
  async #run(phase: "prefill" | "decode", chunks: readonly Chunk[]): Promise<number> {
    const { pass, heads } = composePass(phase, chunks, this.#parts.runner.gates);
    const output = await this.#parts.runner.run(pass);
    const certain = heads.filter(({ draftedId }) => draftedId === null);
    const faults = faultsOf(chunks, certain, output);
    const [{ sequence: first, drafts }] = chunks;
    if (faults.size > 0 && drafts) {
      // A guess that is NaN makes the rows before it NaN, too, because their sums contain 0 · NaN.
      this.#parts.runner.kv.cut(first.row, first.ids.length - 1);
      return this.#run(phase, [nextToken(first)]);
    }
    for (const [sequence, error] of faults) this.#fail(sequence, this.#reportFault(error));
    for (const { sequence } of chunks) await this.#chooseBrakes(sequence);
    const isKept = ({ hiddenRow, sequence }: Head) => pass.states[hiddenRow].position < sequence.cachedTokens;
    return await this.#readHeads(heads.filter(isKept), pass.states, output);
  }

  /** Returns the number of sampled tokens. */
  async #startAnswering(sequence: Sequence): Promise<number> {
    const { runner, memories } = this.#parts;
    const searched: Searched = new Map();
    const fault = await weighMixture(sequence, runner, memories?.rule ?? null, searched);
    this.#parts.progressed?.();
    if (fault) this.#fail(sequence, this.#reportFault(fault));
    await this.#chooseBrakes(sequence, searched);
    let sampled = 0;
    for await (const { heads, states, output } of headsAfterEvidence(sequence, runner)) {
      this.#parts.progressed?.();
      for (const error of faultsOf([], heads, output).values()) this.#fail(sequence, this.#reportFault(error));
      sampled += await this.#readHeads(heads, states, output);
    }
    return sampled;
  }

  async #chooseBrakes(sequence: Sequence, searched: Searched = new Map()): Promise<void> {
    const { runner, memories } = this.#parts;
    if (!memories || sequence.ended || !sequence.awaitsBrakes) return;
    const fault = await chooseBrakes(sequence, runner, memories.rule, searched);
    this.#parts.progressed?.();
    if (fault) this.#fail(sequence, this.#reportFault(fault));
  }

  #start(sequence: Sequence): void {
    sequence.admittedMs ??= this.#parts.now();
    if (!this.#prefixes || sequence.cachedTokens > 0) return;
    this.#prefixes.lead(sequence);
    for (const { block, tokens } of this.#prefixes.take(sequence)) {
      this.#parts.runner.kv.write(sequence.row, block.kv, tokens);
    }
    sequence.reusedTokens = sequence.cachedTokens;
  }

  #keepChunk(sequence: Sequence): void {
    const { cachedTokens: end, row } = sequence;
    const start = end - 1 - ((end - 1) % this.#parts.limits.chunkTokens);
    this.#prefixes?.computed(sequence, start, end, () => this.#parts.runner.kv.copy(row, start, end));
  }

  /** Inserts the wanted passages and restarts the sequence. If no passages are wanted, reads the keys of a traced prompt. */
  async #readStates(sequence: Sequence): Promise<void> {
    if (sequence.ended || sequence.pendingPromptTokens > 0) return;
    const { kv, config } = this.#parts.runner;
    if (!sequence.awaitsPassages) return await readKeys(sequence, kv);
    const states = await kv.states(queryOf(sequence));
    sequence.insertPassages(passagesFor(sequence, states, config.contextTokens));
    if (this.#endIfFinished(sequence)) return;
    kv.close(sequence.row);
    sequence.kv = null;
    this.#prefixes?.leave(sequence);
    this.#planner.restart(sequence);
    this.#prefixes?.arrive(sequence);
  }

  /** Returns the number of sampled tokens. */
  async #readHeads(heads: readonly Head[], states: Pass["states"], output: PassOutput): Promise<number> {
    const { runner, memories, textPieceOf } = this.#parts;
    const says = memories && (await memoriesOfHeads(heads, states, { kv: runner.kv, rule: memories.rule }));
    const model = { hiddenSize: runner.config.hiddenSize, rule: memories?.rule ?? null, textPieceOf };
    let sampled = 0;
    for (const head of heads) {
      const { sequence, scoredId } = head;
      if (!isReached(head, states, output)) continue;
      this.#guard(sequence, () => void this.#frames.push(...readHead(head, output, says?.get(head), model)));
      if (scoredId === null && !sequence.ended) sampled++;
    }
    return sampled;
  }

  /** Also ends the sequence if it needs no token. */
  #endPrefill(sequence: Sequence): void {
    sequence.decodingMs = this.#parts.now();
    this.#prefixes?.leave(sequence);
    this.#endIfFinished(sequence);
  }

  /** Returns whether the sequence has ended. */
  #endIfFinished(sequence: Sequence): boolean {
    const promptFrame = sequence.takePromptFrame();
    if (promptFrame) this.#frames.push(promptFrame);
    if (sequence.finish === null) return false;
    sequence.trace?.take(tracedValues(sequence.trace));
    this.#end(sequence, sequence.doneFrame(this.#parts.now(), this.#parts.memories?.rule ?? null));
    return true;
  }

  async #enqueueWithAdapters(sequence: Sequence, batchAdapterId: string | null): Promise<void> {
    const ids = adapterIdsOf(sequence.request, batchAdapterId);
    const acquired = await Promise.all([
      Promise.all(ids.map((id) => this.#parts.adapters.acquire(id))),
      acquireMemories(sequence, this.#parts.memories, this.#parts.textPieceOf),
      acquireGrammar(sequence, this.#parts.grammars, (error) => {
        if (error) this.#ending.set(sequence.id, error);
        this.#resume();
      }),
    ]).catch(toServiceError);
    if (!(acquired instanceof ServiceError)) this.#guard(sequence, () => this.#enqueue(sequence, acquired[0]));
    else if (!sequence.ended) this.#fail(sequence, acquired);
    this.#flush(null);
  }

  /** Waits briefly, so that a sequence whose allowed tokens come soon does not miss the step. */
  async #awaitGrammars(): Promise<void> {
    const awaits = () => this.#planner.state.running.values().some(({ awaitsGrammar }) => awaitsGrammar);
    const untilMs = this.#parts.now() + grammarGraceMs;
    while (awaits() && this.#parts.now() < untilMs) await setImmediate();
  }

  #resume(): void {
    this.#stalled = false;
    this.#parts.queued?.();
  }

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

  /** If `work` throws, the sequence ends in an error. */
  #guard(sequence: Sequence, work: () => void): void {
    if (sequence.ended) return;
    try {
      work();
    } catch (thrown) {
      this.#failBy(sequence, thrown);
    }
  }

  /** Ends the sequence. If it has ended already, rethrows, because shared state may be inconsistent. */
  #failBy(sequence: Sequence, thrown: unknown): void {
    if (sequence.ended) throw thrown;
    this.#fail(sequence, this.#reportFault(thrown));
  }

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
