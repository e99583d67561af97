/**
 * Who runs in a step. Pure: no clock, no I/O, no tensors; the engine asks, runs, and reports back.
 *
 * Sequences wait first come, first served, for a slot. A step has two phases: every prefilling sequence advances by
 * one chunk of its prompt, then every decoding one by one token. As all of them advance in every step, nobody starves;
 * what bounds a step is admission. Chunks are cut at fixed prompt positions, never by what mates leave over, so that a
 * prompt is computed the same way in any company.
 */
import { ServiceError } from "../../shared/errors.ts";
import { type Move, SlotTable } from "../kv/slot-table.ts";

export interface Schedulable {
  /** Tokens whose keys and values are not cached yet. */
  readonly pendingTokens: number;
  /** Whether prompt positions need the head, not only the last. */
  readonly scoresPrompt: boolean;
}

export interface SchedulerLimits {
  /** Slots. */
  maxSequences: number;
  /** Sequences waiting for a slot. */
  maxQueue: number;
  /** Bound on S × T of a prefill phase, padding counted. */
  stepTokens: number;
  /** Prompt tokens a sequence prefills per step. */
  chunkTokens: number;
}

export interface Chunk<S> {
  sequence: S;
  tokens: number;
}

export class Scheduler<S extends Schedulable> {
  readonly #limits: SchedulerLimits;
  readonly #slots: SlotTable<S>;
  #waiting: S[] = [];

  constructor(limits: SchedulerLimits) {
    if (limits.stepTokens < limits.chunkTokens) {
      throw new Error(`stepTokens is ${limits.stepTokens}, one chunk alone has ${limits.chunkTokens}`);
    }
    this.#limits = limits;
    this.#slots = new SlotTable(limits.maxSequences);
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): number {
    return this.#slots.size;
  }

  /** Puts a sequence at the end of the queue. Throws a ServiceError "overloaded" where it is full. */
  enqueue(sequence: S): void {
    const { maxQueue, maxSequences } = this.#limits;
    if (this.#waiting.length >= maxQueue) {
      // A rough guide: a second for each round that is queued before the caller.
      const retryAfterSeconds = Math.ceil((maxQueue + 1) / maxSequences);
      throw new ServiceError("overloaded", `The queue is full: ${this.#waiting.length} of ${maxQueue} places taken.`, {
        retryAfterSeconds,
      });
    }
    this.#waiting.push(sequence);
  }

  /**
   * Takes slots for as many waiting sequences as slots and the budget of a prefill phase allow, in their order.
   * `claim` is asked last, for whatever else a sequence needs to run: true starts it, false leaves it where it waits.
   */
  admit(claim: (sequence: S) => boolean = () => true): S[] {
    const prefilling = this.#slots.prefilling;
    const admitted: S[] = [];
    for (const next of [...this.#waiting]) {
      if (this.#slots.size === this.#slots.capacity || !this.#fits(prefilling, next)) break;
      if (!claim(next)) continue;
      this.#waiting.splice(this.#waiting.indexOf(next), 1);
      this.#slots.open(next);
      prefilling.push(next);
      admitted.push(next);
    }
    return admitted;
  }

  /** The prefill phase: each prefilling sequence's next chunk, in the order of their rows, and the first row. */
  prefillPhase(): { firstRow: number; chunks: Chunk<S>[] } {
    const chunks = this.#slots.prefilling.map((sequence) => ({ sequence, tokens: this.#chunkOf(sequence) }));
    return { firstRow: this.#slots.size - chunks.length, chunks };
  }

  /** The decode phase: each decoding sequence's one pending token, in the order of their rows from row 0. */
  decodePhase(): { firstRow: number; chunks: Chunk<S>[] } {
    return { firstRow: 0, chunks: this.#slots.decoding.map((sequence) => ({ sequence, tokens: 1 })) };
  }

  /** A sequence whose prompt is cached decodes from the next phase on. */
  promote(sequence: S): Move[] {
    return this.#slots.promote(sequence);
  }

  /** Takes a sequence out, wherever it is: the moves that close its row, or null where it had none. */
  remove(sequence: S): Move[] | null {
    if (this.#slots.rowOf(sequence) !== null) return this.#slots.release(sequence);
    this.#waiting = this.#waiting.filter((other) => other !== sequence);
    return null;
  }

  /** Whether the prefill phase stays within its budget with one more. The first always fits. */
  #fits(prefilling: readonly S[], next: S): boolean {
    // The head rows of a scored chunk are as many as its tokens, each as wide as the vocabulary: one at a time.
    if (next.scoresPrompt && prefilling.some((sequence) => sequence.scoresPrompt)) return false;
    const longest = [...prefilling, next].reduce((max, sequence) => Math.max(max, this.#chunkOf(sequence)), 0);
    return (prefilling.length + 1) * longest <= this.#limits.stepTokens;
  }

  #chunkOf(sequence: S): number {
    return Math.min(this.#limits.chunkTokens, sequence.pendingTokens);
  }
}
