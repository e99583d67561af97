/**
 * Carries sequences of many requests to the backend in micro-batches, and each frame back to whom it belongs.
 * When is the micro-batcher's decision, how is the Dispatch's; HTTP and the platform are shard.ts's.
 */
import {
  type BatchRequest,
  contractVersion,
  errorFrame,
  type Frame,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { type Dispatch, isLast } from "../backend/dispatch.ts";
import { batchingLimits, type MicroBatch, MicroBatcher } from "./micro-batcher.ts";

export interface RelayDependencies {
  openBatch: Dispatch;
  /** Drops sequences of a call that goes on, accepted or not. */
  cancel(ids: string[]): void;
  /** A clock in milliseconds. */
  now(): number;
  /** Holds a promise that nobody awaits. */
  keepAlive(work: Promise<void>): void;
  /** A micro-batch leaves; how long each of its sequences has waited for that. For metrics. */
  batchLeft?(waitsMs: readonly number[]): void;
}

/** One request's share. */
export interface Submission {
  /** Drops what is left of it: waiting sequences leave their queue, running ones are cancelled. */
  cancel(): void;
}

/** Who is told of a request's sequences. */
export interface Receiver {
  /** A backend has accepted one of them; once for each, or never. */
  accepted(): void;
  /** Frames that came together, of each of its sequences in order. */
  receive(frames: Frame[]): void;
}

interface Passenger {
  receiver: Receiver;
  sequence: SequenceRequest;
  route: Pick<BatchRequest, "manifestHash" | "centroidId" | "adapterHash">;
  arrivedMs: number;
  call: Call | null;
}

interface Call {
  abort: AbortController;
  leftMs: number;
  /** Those who still wait for frames, by sequence id. */
  aboard: Map<string, Passenger>;
}

/** Seconds after which a full queue has most likely drained. */
const retryAfterSeconds = 1;

export class Relay {
  readonly #dependencies: RelayDependencies;
  readonly #batcher: MicroBatcher<Passenger>;
  #openCalls = 0;

  constructor(dependencies: RelayDependencies, batcher = new MicroBatcher<Passenger>(batchingLimits)) {
    this.#dependencies = dependencies;
    this.#batcher = batcher;
  }

  /** Sequences in a queue. */
  get waiting(): number {
    return this.#batcher.queued;
  }

  /** Nothing waits and nothing runs. */
  get idle(): boolean {
    return this.#batcher.idle && this.#openCalls === 0;
  }

  /** Queues a request's sequences; `receiver` gets their frames. Throws overloaded where they do not fit. */
  submit(batch: BatchRequest, receiver: Receiver): Submission {
    const { manifestHash, centroidId, adapterHash } = batch;
    const route = { manifestHash, centroidId, ...(adapterHash && { adapterHash }) };
    const arrivedMs = this.#dependencies.now();
    const passengers = batch.sequences.map((sequence) => ({ receiver, sequence, route, arrivedMs, call: null }));
    if (!this.#batcher.enqueue(`${manifestHash}/${adapterHash ?? centroidId ?? ""}`, passengers)) {
      const { tenant } = batch.sequences[0];
      throw new ServiceError(
        "overloaded",
        `${this.#batcher.queuedOf(tenant)} of your completions are waiting here, the maximum is ${this.#batcher.roomOf(tenant)} now; this request has ${passengers.length}.`,
        { retryAfterSeconds },
      );
    }
    this.#pump();
    return { cancel: () => this.#cancel(passengers) };
  }

  #pump(): void {
    for (const { sequence, receiver } of this.#batcher.removeLate(this.#dependencies.now())) {
      const message = `The request waited for ${sequence.deadlineMs} ms, its deadline, without a start.`;
      receiver.receive([errorFrame(sequence.id, new ServiceError("deadline_exceeded", message))]);
    }
    for (let batch = this.#batcher.take(); batch; batch = this.#batcher.take()) {
      this.#dependencies.keepAlive(this.#send(batch));
    }
  }

  async #send({ key, entries }: MicroBatch<Passenger>): Promise<void> {
    const call: Call = {
      abort: new AbortController(),
      leftMs: this.#dependencies.now(),
      aboard: new Map(entries.map((passenger) => [passenger.sequence.id, passenger])),
    };
    for (const passenger of entries) passenger.call = call;
    this.#dependencies.batchLeft?.(entries.map(({ arrivedMs }) => call.leftMs - arrivedMs));
    this.#openCalls++;
    try {
      const groups = await this.#open(key, entries, call);
      for (const { receiver } of call.aboard.values()) receiver.accepted();
      for await (const group of groups) {
        this.#deliver(group, call);
        if (call.aboard.size === 0) break; // the rest, if any, is for those who left
      }
    } catch (error) {
      const failure = toServiceError(error);
      this.#deliver(
        Array.from(call.aboard.keys(), (id) => errorFrame(id, failure)),
        call,
      );
    } finally {
      this.#openCalls--;
    }
  }

  async #open(key: string, entries: Passenger[], call: Call): Promise<AsyncIterable<Frame[]>> {
    const sequences = entries.map((passenger) => withRest(passenger.sequence, call.leftMs - passenger.arrivedMs));
    const batch = { version: contractVersion, ...entries[0].route, sequences } as const;
    try {
      return await this.#dependencies.openBatch(batch, call.abort.signal);
    } finally {
      this.#batcher.accepted(key);
      this.#pump();
    }
  }

  #deliver(frames: readonly Frame[], call: Call): void {
    const shares = new Map<Receiver, Frame[]>();
    for (const frame of frames) {
      const passenger = call.aboard.get(frame.id);
      if (!passenger) continue; // cancelled, and the backend has not noticed yet
      if (isLast(frame)) call.aboard.delete(frame.id);
      const told = frame.type === "done" ? withWait(frame, call.leftMs - passenger.arrivedMs) : frame;
      const share = shares.get(passenger.receiver);
      if (share) share.push(told);
      else shares.set(passenger.receiver, [told]);
    }
    for (const [receiver, share] of shares) receiver.receive(share);
  }

  #cancel(passengers: readonly Passenger[]): void {
    this.#batcher.remove((waiting) => passengers.includes(waiting));
    const left = new Map<Call, string[]>();
    for (const { call, sequence } of passengers) {
      if (call?.aboard.delete(sequence.id)) left.set(call, [...(left.get(call) ?? []), sequence.id]);
    }
    for (const [call, ids] of left) {
      if (call.aboard.size === 0) call.abort.abort();
      else this.#dependencies.cancel(ids);
    }
  }
}

/** The backend counts a deadline from the sequence's arrival there. */
function withRest(sequence: SequenceRequest, waitedMs: number): SequenceRequest {
  if (sequence.deadlineMs === undefined) return sequence;
  return { ...sequence, deadlineMs: Math.max(1, Math.ceil(sequence.deadlineMs - waitedMs)) };
}

/** The queue time of a caller is ours and the backend's. */
function withWait(frame: Frame & { type: "done" }, waitMs: number): Frame {
  return { ...frame, timings: { ...frame.timings, queueMs: frame.timings.queueMs + waitMs } };
}
