/** One call to one backend: its open sequences, and the delivery of its frames. Pure. */
import { type Frame, isLast, type SequenceRequest } from "../../shared/contracts/inference.ts";
import type { Backend } from "./backend-group.ts";
import { type CallFailure, contractViolation, failureOf } from "./call-failure.ts";
import type { PendingSequence, Receiver, SequenceCall } from "./pending-sequence.ts";

interface BatchRunEvents {
  cancelled(ids: string[]): void;
  ended(sequence: PendingSequence): void;
}

export class BatchRun implements SequenceCall {
  /** The called backend; after `markAccepted`, the process that answered. */
  backend: Backend;
  readonly requests: SequenceRequest[] = [];
  /** The backend's numerics fingerprint. null before the backend accepts the call, or if its answer has no fingerprint. */
  numerics: string | null = null;
  readonly #abort = new AbortController();
  readonly #sequences = new Map<string, PendingSequence>();
  readonly #open = new Map<PendingSequence, string>();
  readonly #events: BatchRunEvents;
  /** Call ids of sequences that were cancelled before the backend accepted the call; null afterwards. */
  #cancelledEarly: string[] | null = [];

  constructor(backend: Backend, sequences: readonly PendingSequence[], nowMs: number, events: BatchRunEvents) {
    this.backend = backend;
    this.#events = events;
    for (const one of sequences) {
      const request = one.nextRequest(nowMs);
      this.requests.push(request);
      this.#sequences.set(request.id, one);
      this.#open.set(one, request.id);
      one.run = this;
    }
    backend.recordSent(sequences.length);
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get sequences(): PendingSequence[] {
    return [...this.#open.keys()];
  }

  get isOver(): boolean {
    return this.#open.size === 0;
  }

  /** Moves the sequences' load to the process that accepted them. */
  markAccepted(process: Backend, numerics: string | null): void {
    this.backend.load.own -= this.#open.size;
    process.load.own += this.#open.size;
    this.backend = process;
    this.numerics = numerics;
    const cancelled = this.#cancelledEarly ?? [];
    this.#cancelledEarly = null;
    if (cancelled.length > 0 && !this.isOver) this.#events.cancelled(cancelled);
  }

  remove(sequence: PendingSequence): void {
    if (!this.#open.delete(sequence)) return;
    sequence.run = null;
    this.backend.load.own--;
  }

  /** Also cancels the sequence at the backend. Aborts the call if no sequence is left. */
  cancel(sequence: PendingSequence): void {
    const id = this.#open.get(sequence);
    if (id === undefined) return;
    this.remove(sequence);
    if (this.isOver) this.#abort.abort();
    else if (this.#cancelledEarly) this.#cancelledEarly.push(id);
    else this.#events.cancelled([id]);
  }

  /** Delivers frames and returns the sequences that failed. Throws an Error for an unknown sequence. */
  receive(frames: readonly Frame[]): Map<PendingSequence, CallFailure> {
    const failed = new Map<PendingSequence, CallFailure>();
    const invalid: PendingSequence[] = [];
    const byReceiver = new Map<Receiver, Frame[]>();
    try {
      for (const frame of frames) {
        const sequence = this.#sequences.get(frame.id);
        if (!sequence) throw new Error(`a frame of ${frame.id}, which is not of this call`);
        if (!this.#open.has(sequence) || failed.has(sequence)) continue;
        const reported = frame.type === "error" ? failureOf(frame) : null;
        const violation = reported ? null : this.#deliver(sequence, frame, byReceiver);
        const failure = reported ?? violation;
        if (failure) failed.set(sequence, failure);
        if (violation) invalid.push(sequence);
      }
    } finally {
      for (const [receiver, together] of byReceiver) receiver.receive(together);
    }
    // The backend may still compute sequences whose frames were invalid.
    for (const sequence of invalid) this.cancel(sequence);
    return failed;
  }

  #deliver(sequence: PendingSequence, frame: Frame, byReceiver: Map<Receiver, Frame[]>): CallFailure | null {
    try {
      const { receiver } = sequence;
      const own = sequence.deliver(frame, this.numerics);
      const together = byReceiver.get(receiver);
      if (together) together.push(own);
      else byReceiver.set(receiver, [own]);
    } catch (cause) {
      return contractViolation(cause);
    }
    if (frame.type === "done") this.backend.recordSuccess();
    if (isLast(frame)) {
      this.remove(sequence);
      this.#events.ended(sequence);
    }
    return null;
  }
}
