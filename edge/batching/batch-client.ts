/**
 * Sends the sequences of many requests to the backends in micro-batches, and passes each frame on to its request.
 * The MicroBatcher decides when a batch is sent, the Dispatch how. Not here: HTTP and the platform (cells/cell.ts).
 */
import {
  type BatchRequest,
  contractVersion,
  errorFrame,
  type Frame,
  isLast,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError, toServiceError } from "../../shared/errors.ts";
import type { Dispatch } from "../backend/backends.ts";
import { mayShareCall } from "../backend/joined-calls.ts";
import type { Route } from "../backend/router.ts";
import type { RoutingContext } from "../backend/routing-context.ts";
import { type BatchingLimits, batchingLimits, type MicroBatch, MicroBatcher } from "./micro-batcher.ts";

export interface BatchClientDependencies extends Pick<RoutingContext, "now" | "after" | "keepAlive"> {
  openBatch: Dispatch;
  /** See Backends. */
  backendOf(route: Route): string | null;
  /** Drops sequences, accepted or not; a call of which none is left ends. */
  cancel(ids: string[]): void;
  /** A micro-batch is sent; `waitsMs` is how long each of its sequences has waited for that. For metrics. */
  batchSent?(waitsMs: readonly number[]): void;
}

/** The sequences of one `submit`. */
export interface Submission {
  /** Drops what is left of it: waiting sequences leave their queue, running ones are cancelled. */
  cancel(): void;
}

/** Receives what happens to a request's sequences. */
export interface Receiver {
  /** A backend has accepted the call of one of them, or a part of that call; called at most once for each. */
  accepted(): void;
  /** Frames that came together, of each of its sequences in order. */
  receive(frames: Frame[]): void;
}

interface PendingSequence {
  receiver: Receiver;
  sequence: SequenceRequest;
  route: Pick<BatchRequest, "manifestHash" | "centroidId" | "adapterHash">;
  arrivedMs: number;
  /** Its manifest, if it may share a call with all such sequences of that manifest; null: only with those of its queue. */
  sharedBy: string | null;
  call: Call | null;
}

interface Call {
  sentAtMs: number;
  /** Those that have not ended, by their ids. */
  sequences: Map<string, PendingSequence>;
}

/** Seconds after which a full queue has most likely drained. */
const retryAfterSeconds = 1;

/** This cell does not take the request: nothing of it was begun or settled, and another cell may take it. */
export class NotTaken extends ServiceError {
  constructor(kind: ErrorKind, message: string) {
    super(kind, message, { retryAfterSeconds });
  }
}

export class BatchClient {
  readonly #dependencies: BatchClientDependencies;
  readonly #batcher: MicroBatcher<PendingSequence>;
  #openCalls = 0;
  /** Of the time when a queue has gathered long enough; null: none is set. */
  #timer: { atMs: number; cancel(): void } | null = null;

  constructor(dependencies: BatchClientDependencies, limits: BatchingLimits = batchingLimits) {
    this.#dependencies = dependencies;
    this.#batcher = new MicroBatcher(limits);
  }

  /** Number of queued sequences. */
  get waiting(): number {
    return this.#batcher.queued;
  }

  /** Nothing waits and nothing runs. */
  get idle(): boolean {
    return this.#batcher.idle && this.#openCalls === 0;
  }

  /** Throws NotTaken when so many more sequences of the tenant do not fit the queue. */
  checkRoom(tenant: string, sequences: number): void {
    const [queued, room] = [this.#batcher.queuedOf(tenant), this.#batcher.roomOf(tenant)];
    if (queued + sequences <= room) return;
    throw new NotTaken(
      "overloaded",
      `${queued} of your completions are waiting here, the maximum is ${room} now; this request has ${sequences}.`,
    );
  }

  /** Queues sequences of one tenant; `receiver` gets their frames. Throws NotTaken when they do not fit. */
  submit(batch: BatchRequest, receiver: Receiver): Submission {
    const { manifestHash, centroidId, adapterHash } = batch;
    const route = { manifestHash, centroidId, ...(adapterHash && { adapterHash }) };
    const arrivedMs = this.#dependencies.now();
    const sharedBy = mayShareCall(batch) ? manifestHash : null;
    const pending = batch.sequences.map((sequence): PendingSequence => {
      return { receiver, sequence, route, arrivedMs, sharedBy, call: null };
    });
    this.checkRoom(batch.sequences[0].tenant, pending.length);
    // Named apart: the base has no adapter, and there may be no backend.
    const { backendOf } = this.#dependencies;
    const queue = sharedBy === null ? `adapter ${adapterHash ?? centroidId}` : `backend ${backendOf(route)}`;
    this.#batcher.enqueue(`${manifestHash} ${queue}`, pending);
    this.#sendReady();
    return { cancel: () => this.#cancel(pending) };
  }

  #sendReady(): void {
    const next = () => this.#batcher.take(this.#dependencies.now());
    for (let batch = next(); batch; batch = next()) this.#dependencies.keepAlive(this.#send(batch));
    const untilMs = this.#batcher.gathersUntilMs;
    if (untilMs === (this.#timer?.atMs ?? null)) return;
    this.#timer?.cancel();
    this.#timer = untilMs === null ? null : { atMs: untilMs, cancel: this.#sendReadyAt(untilMs) };
  }

  /** Returns what cancels it. */
  #sendReadyAt(atMs: number): () => void {
    const { now, after } = this.#dependencies;
    return after(Math.max(0, atMs - now()), () => {
      this.#timer = null;
      this.#sendReady();
    });
  }

  async #send({ id, entries }: MicroBatch<PendingSequence>): Promise<void> {
    const call: Call = {
      sentAtMs: this.#dependencies.now(),
      sequences: new Map(entries.map((pending) => [pending.sequence.id, pending])),
    };
    for (const pending of entries) pending.call = call;
    this.#dependencies.batchSent?.(entries.map(({ arrivedMs }) => call.sentAtMs - arrivedMs));
    this.#openCalls++;
    try {
      const groups = await this.#open(id, entries, call);
      for (const { receiver } of call.sequences.values()) receiver.accepted();
      for await (const group of groups) {
        this.#deliver(group, call);
        if (call.sequences.size === 0) break; // Further frames are of cancelled sequences.
      }
    } catch (error) {
      const failure = toServiceError(error);
      this.#deliver(
        Array.from(call.sequences.keys(), (id) => errorFrame(id, failure)),
        call,
      );
    } finally {
      this.#openCalls--;
    }
  }

  async #open(id: number, entries: PendingSequence[], call: Call): Promise<AsyncIterable<Frame[]>> {
    const sequences = entries.map(({ sequence, arrivedMs }) => withTimeLeft(sequence, call.sentAtMs - arrivedMs));
    const batch = { version: contractVersion, ...entries[0].route, sequences } as const;
    try {
      return await this.#dependencies.openBatch(batch);
    } finally {
      this.#batcher.accepted(id);
      this.#sendReady();
    }
  }

  #deliver(frames: readonly Frame[], call: Call): void {
    const shares = new Map<Receiver, Frame[]>();
    for (const frame of frames) {
      const pending = call.sequences.get(frame.id);
      if (!pending) continue; // Cancelled, and the backend has not noticed yet.
      if (isLast(frame)) call.sequences.delete(frame.id);
      const delivered = frame.type === "done" ? withQueueTime(frame, call.sentAtMs - pending.arrivedMs) : frame;
      const share = shares.get(pending.receiver);
      if (share) share.push(delivered);
      else shares.set(pending.receiver, [delivered]);
    }
    for (const [receiver, share] of shares) receiver.receive(share);
  }

  #cancel(sequences: readonly PendingSequence[]): void {
    this.#batcher.remove((waiting) => sequences.includes(waiting));
    const sent = sequences.filter(({ call, sequence }) => call?.sequences.delete(sequence.id));
    if (sent.length > 0) this.#dependencies.cancel(sent.map(({ sequence }) => sequence.id));
  }
}

/** The backend counts a deadline from the sequence's arrival there. */
function withTimeLeft(sequence: SequenceRequest, waitedMs: number): SequenceRequest {
  if (sequence.deadlineMs === undefined) return sequence;
  return { ...sequence, deadlineMs: Math.max(1, Math.ceil(sequence.deadlineMs - waitedMs)) };
}

/** The reported queue time is the sum of the cell's and the backend's. */
function withQueueTime(frame: Frame & { type: "done" }, waitMs: number): Frame {
  return { ...frame, timings: { ...frame.timings, queueMs: frame.timings.queueMs + waitMs } };
}
