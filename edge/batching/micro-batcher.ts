/**
 * Decides which sequences travel to the backend together, and when. Pure: no I/O, no clock, no timers; shard.ts acts
 * on what `take` says after each event.
 *
 * One queue per centroid. An idle queue is sent at once, so a lone request never waits. While a call of a centroid
 * awaits acceptance, what arrives for it gathers and leaves as one call: the busier the backend, the larger the calls.
 * Once accepted, a call's decoding takes as long as it takes and delays nobody.
 */
import { limits } from "../../shared/contracts/limits.ts";

export interface BatchingLimits {
  /** Calls awaiting acceptance at once. The platform allows six connections per object that await headers. */
  awaitingCalls: number;
  /** Sequences waiting in all queues; more are refused, since they would wait longer than a caller does. */
  queuedSequences: number;
  sequencesPerCall: number;
}

export const batchingLimits: BatchingLimits = {
  awaitingCalls: 6,
  queuedSequences: 1024,
  sequencesPerCall: limits.sequencesPerBatch,
};

/** Sequences that leave together, in order of arrival. */
export interface MicroBatch<T> {
  /** The queue's key; `accepted` wants it back. */
  key: string;
  entries: T[];
}

export class MicroBatcher<T> {
  readonly #limits: BatchingLimits;
  /** By key, in order of arrival; an empty queue is not kept. */
  readonly #queues = new Map<string, { arrival: number; entry: T }[]>();
  /** Keys with a call that awaits acceptance. */
  readonly #awaiting = new Set<string>();
  #queued = 0;
  #arrivals = 0;

  constructor(bounds: BatchingLimits = batchingLimits) {
    this.#limits = bounds;
  }

  get queued(): number {
    return this.#queued;
  }

  /** Nothing waits and no call awaits acceptance. */
  get idle(): boolean {
    return this.#queued === 0 && this.#awaiting.size === 0;
  }

  /** Queues all of `entries`, or none of them where they do not fit: false. */
  enqueue(key: string, entries: readonly T[]): boolean {
    if (this.#queued + entries.length > this.#limits.queuedSequences) return false;
    const queue = this.#queues.get(key) ?? [];
    for (const entry of entries) queue.push({ arrival: this.#arrivals++, entry });
    if (queue.length > 0) this.#queues.set(key, queue);
    this.#queued += entries.length;
    return true;
  }

  /** Drops the waiting entries that `drop` picks, and returns how many. */
  remove(drop: (entry: T) => boolean): number {
    const before = this.#queued;
    for (const [key, queue] of this.#queues)
      this.#keep(
        key,
        queue,
        queue.filter(({ entry }) => !drop(entry)),
      );
    return before - this.#queued;
  }

  /** The next micro-batch to send now, or null. Of the queues that may send, the one whose head came first. */
  take(): MicroBatch<T> | null {
    if (this.#awaiting.size >= this.#limits.awaitingCalls) return null;
    let first: string | null = null;
    let earliest = Number.POSITIVE_INFINITY;
    for (const [key, [head]] of this.#queues) {
      if (head.arrival < earliest && !this.#awaiting.has(key)) {
        first = key;
        earliest = head.arrival;
      }
    }
    if (first === null) return null;
    const queue = this.#queues.get(first)!;
    const taken = queue.slice(0, this.#limits.sequencesPerCall);
    this.#keep(first, queue, queue.slice(taken.length));
    this.#awaiting.add(first);
    return { key: first, entries: taken.map(({ entry }) => entry) };
  }

  /** The call last taken for `key` was accepted, or failed: its queue may send again. */
  accepted(key: string): void {
    this.#awaiting.delete(key);
  }

  #keep(key: string, before: { length: number }, after: { arrival: number; entry: T }[]): void {
    this.#queued -= before.length - after.length;
    if (after.length > 0) this.#queues.set(key, after);
    else this.#queues.delete(key);
  }
}
