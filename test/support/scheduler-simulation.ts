/** A scheduler driven with fake sequences, as an engine would drive it. */
import { expect } from "vitest";
import { type Pass, type Schedulable, Scheduler, type SchedulerLimits } from "../../gpu-backend/engine/scheduler.ts";
import type { KvBudget } from "../../gpu-backend/kv/kv-budget.ts";
import type { Move } from "../../gpu-backend/kv/slot-table.ts";

export const chunkTokens = 64;
export const shape = { layers: 1, heads: 1, headWidth: 1, contextTokens: 512 };
export const bytesPerPosition = 8;

export interface Fake extends Schedulable {
  pendingPromptTokens: number;
  cachedTokens: number;
  left: number;
  boundaries: number[];
  isDecoding: boolean;
  /** Tokens that it finds cached when it first starts. */
  reused: number;
}
let clockMs = 0;
export const fake = (promptTokens: number, completionTokens: number, rest: Partial<Fake> = {}): Fake => ({
  tenant: "t",
  dueMs: clockMs++,
  expires: false,
  pendingPromptTokens: promptTokens,
  cachedTokens: 0,
  mostTokens: promptTokens + completionTokens,
  left: completionTokens,
  scoresPrompt: false,
  boundaries: [],
  isDecoding: false,
  reused: 0,
  ...rest,
});
export const noBound = { holds: () => true };
export const limitsOf = (rest: Partial<SchedulerLimits>): SchedulerLimits => ({
  maxSequences: 8,
  maxQueue: 100_000,
  stepTokens: 512,
  chunkTokens,
  slowdown: 1.3,
  ...rest,
});

export type CostOf = (phase: "prefill" | "decode", size: number) => number;

/** A scheduler and what an engine does with it, step by step; it follows the moves and checks that they lead home. */
export class Simulation {
  readonly scheduler: Scheduler<Fake>;
  /** Who is in each row. */
  readonly rows: Fake[] = [];
  readonly parked = new Set<Fake>();
  admitted: Fake[] = [];
  /** Of the scheduler's clock. */
  nowMs = 0;
  readonly #costOf: CostOf;
  /** Who advanced in the last step. */
  readonly advanced = { prefill: [] as Fake[], decode: [] as Fake[] };

  /** Without `costOf` no phase takes any time, and nobody is held back. */
  constructor(limits: Partial<SchedulerLimits>, kv: Pick<KvBudget, "holds"> = noBound, costOf: CostOf = () => 0) {
    this.scheduler = new Scheduler(limitsOf(limits), kv);
    this.#costOf = costOf;
  }

  enqueue(...sequences: Fake[]): void {
    for (const sequence of sequences) this.scheduler.enqueue(sequence);
  }

  admit(): Fake[] {
    const admissions = this.scheduler.admit(this.nowMs);
    this.scheduler.share();
    for (const { sequence, parked, moves } of admissions) {
      if (parked) {
        expect(this.rows[parked.row]).toBe(parked.sequence);
        this.parked.add(parked.sequence);
        this.#close(parked.moves);
      }
      this.rows.push(sequence);
      expect(moves.length === 0 || this.parked.has(sequence)).toBe(true);
      if (!this.parked.delete(sequence)) {
        sequence.cachedTokens = sequence.reused;
        sequence.pendingPromptTokens -= sequence.reused;
      }
      this.#follow(moves);
    }
    this.admitted = admissions.map(({ sequence }) => sequence);
    return this.admitted;
  }

  /** Returns S × T of the prefill phase and the sequences that ended. */
  step(): { prefillArea: number; ended: Fake[] } {
    const { scheduler } = this;
    this.admit();
    const prefilling = this.rows.filter(({ isDecoding }) => !isDecoding);
    const advanced: Fake[] = [];
    let prefillArea = 0;
    const { heldRows } = scheduler;
    for (const pass of scheduler.prefillPasses()) {
      const { firstRow, begunTokens, chunks } = pass;
      this.#ran("prefill", pass);
      const sequences = chunks.map(({ sequence }) => sequence);
      expect(this.rows.slice(firstRow, firstRow + chunks.length)).toEqual(sequences);
      advanced.push(...sequences);
      prefillArea += chunks.length * Math.max(0, ...chunks.map(({ tokens }) => tokens));
      for (const { sequence, tokens } of chunks) {
        expect(sequence.isDecoding).toBe(false);
        expect(sequence.cachedTokens % chunkTokens).toBe(begunTokens);
        sequence.boundaries.push(tokens);
        sequence.cachedTokens += tokens;
        sequence.pendingPromptTokens -= tokens;
        if (sequence.pendingPromptTokens > 0) {
          if (!this.#isCosting) expect(sequence.cachedTokens % chunkTokens).toBe(0);
          continue;
        }
        sequence.isDecoding = true;
        this.#follow(scheduler.promote(sequence));
      }
    }
    expect(new Set(advanced).size).toBe(advanced.length);
    // Tenants take turns in the phase; one alone has all of it.
    const tenants = new Set(prefilling.map(({ tenant }) => tenant));
    if (!this.#isCosting && tenants.size === 1) expect(new Set(advanced)).toEqual(new Set(prefilling));
    if (!this.#isCosting && tenants.size > 0) expect(advanced.length).toBeGreaterThan(0);
    const ended: Fake[] = [];
    const decoding = this.rows.filter(({ isDecoding }) => isDecoding);
    const { moves, ...pass } = scheduler.decodePhase();
    const { firstRow, chunks } = pass;
    this.#follow(moves);
    this.#ran("decode", pass);
    const decoded = chunks.map(({ sequence }) => sequence);
    expect(scheduler.heldRows - heldRows).toBe(decoding.length - decoded.length);
    if (!this.#isCosting) expect(decoded).toEqual(decoding);
    Object.assign(this.advanced, { prefill: advanced, decode: decoded });
    expect(this.rows.slice(firstRow, firstRow + chunks.length)).toEqual(decoded);
    for (const { sequence } of chunks) {
      expect(sequence.isDecoding).toBe(true);
      sequence.cachedTokens++;
      if (--sequence.left > 0) continue;
      this.remove(sequence);
      ended.push(sequence);
    }
    return { prefillArea, ended };
  }

  get #isCosting(): boolean {
    return this.#costOf("decode", 1) > 0;
  }

  #ran(phase: "prefill" | "decode", pass: Pass<Fake>): void {
    if (pass.chunks.length === 0) return;
    const longest = Math.max(...pass.chunks.map(({ tokens }) => tokens));
    const ms = this.#costOf(phase, pass.chunks.length * longest);
    this.nowMs += ms;
    this.scheduler.ran(phase, pass, ms);
  }

  remove(sequence: Fake): void {
    const moves = this.scheduler.remove(sequence);
    if (moves) this.#close(moves);
    this.parked.delete(sequence);
  }

  finish(): void {
    while (this.scheduler.running + this.scheduler.waiting > 0) this.step();
  }

  #close(moves: readonly Move[]): void {
    this.#follow(moves);
    this.rows.pop();
  }

  #follow(moves: readonly Move[]): void {
    for (const { from, to, swap } of moves) {
      const replaced = this.rows[to];
      this.rows[to] = this.rows[from];
      if (swap) this.rows[from] = replaced;
    }
  }
}
