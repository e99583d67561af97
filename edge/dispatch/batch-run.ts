/** One call of some sequences to one backend: which of them are still open, and the delivery of its frames. Pure. */
import { type Frame, isLast, type SequenceRequest } from "../../shared/contracts/inference.ts";
import type { Backend } from "./backend-group.ts";
import { type CallFailure, contractViolation, failureOf } from "./call-failure.ts";
import { addFrame, type PendingSequence, type Receiver, type SequenceCall } from "./pending-sequence.ts";

export interface BatchRunEvents {
  /** The backend is to drop these sequences of an accepted call. */
  cancelled(ids: string[]): void;
  /** A sequence got its last frame. */
  ended(sequence: PendingSequence): void;
}

export class BatchRun implements SequenceCall {
  /** Once the call is answered, the process that answered it. */
  backend: Backend;
  readonly requests: SequenceRequest[] = [];
  /** The backend's numerics fingerprint; null before it accepts, and if it sends none. */
  numerics: string | null = null;
  readonly #abort = new AbortController();
  /** By the id that the backend knows. */
  readonly #sequences = new Map<string, PendingSequence>();
  /** Sequences that have neither ended here nor been cancelled, with the id that the backend knows. */
  readonly #open = new Map<PendingSequence, string>();
  readonly #events: BatchRunEvents;
  /** Ids that were cancelled before the backend accepted; null once it has. */
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

  /** The sequences that have neither ended here nor been cancelled. */
  get sequences(): PendingSequence[] {
    return [...this.#open.keys()];
  }

  get isOver(): boolean {
    return this.#open.size === 0;
  }

  /** `process` has accepted the call. Its load moves there. */
  markAccepted(process: Backend, numerics: string | null): void {
    this.backend.load.own -= this.#open.size;
    process.load.own += this.#open.size;
    this.backend = process;
    this.numerics = numerics;
    const cancelled = this.#cancelledEarly ?? [];
    this.#cancelledEarly = null;
    if (cancelled.length > 0 && !this.isOver) this.#events.cancelled(cancelled);
  }

  /** Removes a sequence that got its last frame, or whose call failed. */
  remove(sequence: PendingSequence): void {
    if (!this.#open.delete(sequence)) return;
    sequence.run = null;
    this.backend.load.own--;
  }

  /** Removes a sequence and tells the backend to drop it. Without any sequence left, the call is aborted. */
  cancel(sequence: PendingSequence): void {
    const id = this.#open.get(sequence);
    if (id === undefined) return;
    this.remove(sequence);
    if (this.isOver) this.#abort.abort();
    else if (this.#cancelledEarly) this.#cancelledEarly.push(id);
    else this.#events.cancelled([id]);
  }

  /**
   * Delivers each request its frames of one chunk. Returns the sequences that failed at the backend or whose frames are invalid.
   * Throws an Error for a frame of an unknown sequence; then those sequences are still open.
   */
  receive(frames: readonly Frame[]): Map<PendingSequence, CallFailure> {
    const failed = new Map<PendingSequence, CallFailure>();
    const invalid: PendingSequence[] = [];
    const byReceiver = new Map<Receiver, Frame[]>();
    try {
      for (const frame of frames) {
        const sequence = this.#find(frame.id);
        if (!sequence || failed.has(sequence)) continue;
        const reported = frame.type === "error" ? failureOf(frame) : null;
        const violation = reported ? null : this.#deliver(sequence, frame, byReceiver);
        const failure = reported ?? violation;
        if (failure) failed.set(sequence, failure);
        if (violation) invalid.push(sequence);
      }
    } finally {
      for (const [receiver, together] of byReceiver) receiver.receive(together);
    }
    // The backend may continue to compute those.
    for (const sequence of invalid) this.cancel(sequence);
    return failed;
  }

  /** The sequence that a frame is for; null if it has ended here. Throws an Error for an id that was not sent. */
  #find(id: string): PendingSequence | null {
    const sequence = this.#sequences.get(id);
    if (!sequence) throw new Error(`a frame of ${id}, which is not of this call`);
    return this.#open.has(sequence) ? sequence : null;
  }

  /** Returns the failure if the frame is invalid. */
  #deliver(sequence: PendingSequence, frame: Frame, byReceiver: Map<Receiver, Frame[]>): CallFailure | null {
    try {
      addFrame(byReceiver, sequence, sequence.deliver(frame, this.numerics));
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
