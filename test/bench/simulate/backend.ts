/**
 * A simulated backend process: the real planner decides each step; a step takes as long as `StepTimes` says. Tokens, keys and
 * values are counts.
 */

import { nextChunk } from "../../../gpu-backend/engine/plan.ts";
import { Planner } from "../../../gpu-backend/engine/planner.ts";
import { KvBudget, type KvShape } from "../../../gpu-backend/kv/kv-budget.ts";
import type { BackendLoad } from "../../../shared/contracts/backend-load.ts";
import type { EventQueue } from "./events.ts";
import type { Machine } from "./machine.ts";

/** Milliseconds of a step: `fixed`, plus so much for each prompt that ends in it, each prompt token and each decoded row. */
export interface StepTimes {
  fixed: number;
  /** Weighing its mixture. */
  prompt: number;
  promptToken: number;
  decodedRow: number;
}

export interface BackendLimits {
  maxSequences: number;
  maxQueue: number;
  stepTokens: number;
  chunkTokens: number;
  kvBytes: number;
  kvShape: KvShape;
}

/** One sequence on its way through a backend. */
export interface Sequence {
  readonly tenant: string;
  readonly dueMs: number;
  pendingPromptTokens: number;
  cachedTokens: number;
  readonly mostTokens: number;
  readonly poolAdapters: readonly string[];
  readonly isMixed: boolean;
  /** Tokens still to be generated. */
  remainingTokens: number;
  /** Called at each token's time; `isLast` with the last one. */
  onToken(isLast: boolean): void;
}

export class SimulatedBackend {
  readonly #events: EventQueue;
  readonly #times: StepTimes;
  readonly #limits: BackendLimits;
  readonly #planner: Planner<Sequence>;
  readonly #machine: Machine | null;
  readonly #sequences = new Set<Sequence>();
  #isRunning = false;
  #isLost = false;
  /** Time that all computed tokens take in full steps, in milliseconds: the least there is. */
  workMs = 0;
  steps = 0;

  /** `machine`: whose cores it shares; null: nothing else runs where it does. */
  constructor(events: EventQueue, times: StepTimes, limits: BackendLimits, machine: Machine | null = null) {
    this.#machine = machine;
    this.#events = events;
    this.#times = times;
    this.#limits = limits;
    this.#planner = new Planner<Sequence>(limits, {
      // One class of lengths, as on a GPU.
      kv: new KvBudget(limits.kvShape, limits.kvBytes, { classBytes: Number.POSITIVE_INFINITY, passBytes: 0 }),
      poolSlots: 0,
      prefixes: null,
    });
  }

  get isLost(): boolean {
    return this.#isLost;
  }

  /** What it reports to those who call it. */
  get load(): BackendLoad {
    return { sequences: this.#sequences.size, slots: this.#limits.maxSequences };
  }

  /** Throws a ServiceError where the queue is full, as the engine does. */
  enqueue(sequence: Sequence): void {
    this.#planner.enqueue(sequence);
    this.#sequences.add(sequence);
    if (!this.#isRunning) this.#step();
  }

  /** Ends the process. Returns the sequences that it had. */
  lose(): Sequence[] {
    this.#isLost = true;
    const lost = [...this.#sequences];
    this.#sequences.clear();
    return lost;
  }

  #step(): void {
    if (this.#isLost || this.#sequences.size === 0) {
      this.#isRunning = false;
      return;
    }
    this.#isRunning = true;
    const { prefill, decode } = this.#planner.nextStep();
    let promptTokens = 0;
    let prompts = 0;
    for (const sequence of prefill) {
      const tokens = nextChunk(sequence.cachedTokens, sequence.pendingPromptTokens, this.#limits.chunkTokens);
      sequence.pendingPromptTokens -= tokens;
      sequence.cachedTokens += tokens;
      promptTokens += tokens;
      if (sequence.pendingPromptTokens === 0) prompts++;
    }
    const { fixed, prompt, promptToken, decodedRow } = this.#times;
    const prefillMs = prompt * prompts + promptToken * promptTokens;
    this.steps++;
    this.workMs += prefillMs + (decodedRow + fixed / this.#limits.maxSequences) * decode.length;
    const finish = () => {
      if (this.#isLost) return;
      for (const sequence of decode) {
        sequence.remainingTokens--;
        sequence.cachedTokens++;
        const isLast = sequence.remainingTokens === 0;
        if (isLast) {
          this.#planner.remove(sequence);
          this.#sequences.delete(sequence);
        }
        sequence.onToken(isLast);
      }
      this.#step();
    };
    const stepMs = fixed + prefillMs + decodedRow * decode.length;
    if (this.#machine) this.#machine.run(stepMs, finish);
    else this.#events.after(stepMs, finish);
  }
}

/** Milliseconds from the start of an empty backend's first step to the first token of a prompt. */
export function queueFreePrefillMs(promptTokens: number, times: StepTimes, limits: BackendLimits): number {
  const steps = Math.ceil(promptTokens / limits.chunkTokens);
  return steps * times.fixed + times.prompt + promptTokens * times.promptToken + times.decodedRow;
}
