/**
 * Response bodies of one Durable Object, or of a Worker's requests, with a bound on the bytes that they hold: unread bytes and, for a non-streamed
 * answer, the parts kept so far. The runtime's streams queue writes without a bound. So a body has at most one write
 * pending in its stream, which settles when the next stage (object, Worker, socket) has read it, and queues the rest itself.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { joinArrays } from "../../shared/join-arrays.ts";
import { AnswerEnd, type EndReason } from "./answer-end.ts";

/** Maximum bytes held by all bodies of one object. An isolate has 128 MB; with four cells in it, bodies use half at most. */
const objectBodyBytes = 16 * 2 ** 20;

/** Maximum bytes held by the large answers of a Worker's isolate itself; a tenant's at most half. */
export const workerBodyBytes = 32 * 2 ** 20;

/** Maximum bytes per stream write; written data cannot be withdrawn after a cancel. */
const writeBytes = 16 * 1024;

/**
 * Maximum bytes of an answer that is sent with a `content-length`. A larger one is an AnswerBody, whose bytes count until they
 * are read.
 */
export const shortAnswerBytes = 64 * 1024;

/** More is written while fewer bytes than this are unread. */
export const unreadAheadBytes = limits.unreadBytes / 16;

/** Events, or parts of a large answer, are written together up to this many bytes, and one more. */
export const eventsBytes = 8 * 1024;

/**
 * Interval of the timer that calls `ticked` (renewal of the admission, deadlines) and checks for heartbeats and unread bodies, in
 * milliseconds.
 */
const tickMs = 50;

interface BodyOptions {
  tenant: string;
  /** Maximum bytes that this body may hold. */
  maximumBytes: number;
  /** Written to an event stream when no write has completed for `everyMs`: only a write detects a disconnect. */
  heartbeat: { text: string; everyMs: number } | null;
}

interface BodyEvents {
  /** The body has not ended; called every `tickMs`. */
  ticked?(): void;
  /** No write completed for `everyMs`. */
  heartbeatDue?(): void;
  /** The reader has taken what was written, or some of it. */
  taken?(): void;
  /** Called once, when no more is written because the answer is complete or has failed. Settles it. */
  settled(reason: EndReason): void;
  /** The text that tells the reader of `error` and ends the body; null to break it off. */
  lastText(error: ServiceError): string | null;
  /** Called once, when nothing of the body is in memory. */
  ended?(reason: EndReason): void;
}

export class AnswerBodies {
  readonly #maximumBytes: number;
  readonly #ofRequests: boolean;
  readonly #tenants = new Map<string, Set<AnswerBody>>();
  #heldBytes = 0;
  /** Runs while a body of an object is open. */
  #timer: ReturnType<typeof setInterval> | null = null;

  /**
   * `ofRequests`: the bodies belong to a Worker's requests, of which none may use a timer or a stream of another. So each has a
   * timer, which also carries out its eviction.
   */
  constructor({ maximumBytes = objectBodyBytes, ofRequests = false } = {}) {
    this.#maximumBytes = maximumBytes;
    this.#ofRequests = ofRequests;
  }

  /** Bytes held by all bodies. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Whether a tenant's bodies may hold `bytes` more without more than half of what all may hold. */
  hasRoom(tenant: string, bytes: number): boolean {
    return sum(this.#tenants.get(tenant) ?? []) + bytes <= this.#maximumBytes / 2;
  }

  /** Number of a tenant's bodies that have not ended. */
  countOf(tenant: string): number {
    return this.#tenants.get(tenant)?.size ?? 0;
  }

  /** Number of open event streams of a tenant. */
  streamsOf(tenant: string): number {
    let streams = 0;
    for (const { isStream } of this.#tenants.get(tenant) ?? []) if (isStream) streams++;
    return streams;
  }

  open(options: BodyOptions, events: BodyEvents): AnswerBody {
    const { tenant } = options;
    const bodies = this.#tenants.get(tenant) ?? new Set();
    this.#tenants.set(tenant, bodies);
    const body = new AnswerBody(options, {
      ...events,
      ended: (reason) => {
        bodies.delete(body);
        if (bodies.size === 0) this.#tenants.delete(tenant);
        if (timer !== null) clearInterval(timer);
        if (this.#tenants.size === 0) this.#stop();
        events.ended?.(reason);
      },
      held: (changedBytes) => {
        this.#heldBytes += changedBytes;
        if (changedBytes > 0) this.#evictLargest();
      },
    });
    bodies.add(body);
    const timer = this.#ofRequests ? setInterval(() => body.tick(), tickMs) : null;
    if (!this.#ofRequests) this.#timer ??= setInterval(() => this.#tick(), tickMs);
    return body;
  }

  /** While the limit is exceeded, ends the largest body of the tenant whose bodies hold most. */
  #evictLargest(): void {
    while (this.#heldBytes > this.#maximumBytes) {
      const heaviest = largest(this.#tenants.values(), (bodies) => sum(bodies));
      largest(heaviest, ({ heldBytes }) => heldBytes).evict(this.#maximumBytes, { atNextTick: this.#ofRequests });
    }
  }

  #tick(): void {
    for (const bodies of this.#tenants.values()) for (const body of bodies) body.tick();
  }

  #stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }
}

/** The element with the largest size; `all` must not be empty. */
function largest<T>(all: Iterable<T>, sizeOf: (one: T) => number): T {
  return [...all].reduce((a, b) => (sizeOf(b) > sizeOf(a) ? b : a));
}

function sum(bodies: Iterable<AnswerBody>): number {
  let bytes = 0;
  for (const { heldBytes } of bodies) bytes += heldBytes;
  return bytes;
}

const encoder = new TextEncoder();

/** Of a text, at most `writeBytes` long. */
interface Piece {
  bytes: Uint8Array;
  /** The piece before it is of the same text. */
  isRest: boolean;
}

export class AnswerBody {
  readonly #options: BodyOptions;
  readonly #events: BodyEvents & { held(changedBytes: number): void };
  readonly #end: AnswerEnd;
  readonly #heartbeatTicks: number;
  #stream: { readable: ReadableStream<Uint8Array>; writer: WritableStreamDefaultWriter<Uint8Array> } | null = null;
  /** Bytes of the pending stream write. */
  #writingBytes = 0;
  /** Queued for the next writes. */
  #queue: Piece[] = [];
  #queuedBytes = 0;
  #pendingBytes = 0;
  #heldBytes = 0;
  #silentTicks = 0;
  /** Since the pending write began. */
  #stalledTicks = 0;
  /** Ends the body at its next tick; its bytes count no more. */
  #eviction: ServiceError | null = null;

  constructor(options: BodyOptions, events: BodyEvents & { held(changedBytes: number): void }) {
    this.#options = options;
    this.#events = events;
    this.#end = new AnswerEnd({ settled: events.settled, finished: (reason) => this.#finished(reason) });
    // A tick may follow a write immediately.
    this.#heartbeatTicks = Math.max(1, Math.floor((options.heartbeat?.everyMs ?? 0) / tickMs) - 1);
  }

  /** Whether it may be written to: the answer is not settled. */
  get isOpen(): boolean {
    return this.#end.phase === "open";
  }

  get isStream(): boolean {
    return this.#options.heartbeat !== null;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  get hasNoUnreadWrite(): boolean {
    return this.#writingBytes === 0;
  }

  /** Bytes that were written and that nobody has read. */
  get unreadBytes(): number {
    return this.#writingBytes + this.#queuedBytes;
  }

  /** The response body. Created on first use: a short non-streamed answer needs none. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#opened().readable;
  }

  /** Queues `text` without waiting. Fails if more than `maximumBytes` are unread; a larger text is written when nothing else is. */
  write(text: string | Uint8Array): void {
    if (!this.isOpen || text.length === 0) return;
    const bytes = typeof text === "string" ? encoder.encode(text) : text;
    if (this.unreadBytes > 0 && this.#failsAbove(this.unreadBytes + bytes.length)) return;
    this.#append(bytes);
    this.#reportHeldBytes();
  }

  /** Sets the bytes kept for what will be written later. `isBounded`: fails if all held bytes are above `maximumBytes`. */
  setPendingBytes(bytes: number, isBounded: boolean): void {
    if (!this.isOpen) return;
    this.#pendingBytes = bytes;
    this.#reportHeldBytes();
    if (isBounded) this.#failsAbove(this.#heldBytes);
  }

  /** Completes the answer: writes the last text and closes the stream once everything is read, without waiting. */
  complete(text: string): void {
    if (this.#end.apply("complete")) this.#close(text);
  }

  /** Completes an answer that is sent another way: this body is not used. */
  completeUnused(): void {
    if (this.#end.apply("complete")) this.#breakOff();
  }

  /**
   * Ends the answer in an error, also one whose last bytes are not read. Discards queued data, writes the last text, then closes. A text
   * of which a piece is written keeps its other pieces, so that no event ends in its middle.
   */
  fail(reason: "failed" | "deadline" | "limit", error: ServiceError): void {
    if (!this.#end.apply(reason)) return;
    if (this.#end.phase === "ended") return;
    const text = this.#events.lastText(error);
    if (text === null) {
      this.#breakOff();
      return;
    }
    const next = this.#queue.findIndex(({ isRest }) => !isRest);
    if (next >= 0) this.#queue.length = next;
    this.#queuedBytes = this.#queue.reduce((sum, { bytes }) => sum + bytes.length, 0);
    this.#close(text);
  }

  /** The client has disconnected. */
  leave(): void {
    this.#end.apply("gone");
  }

  tick(): void {
    this.#events.ticked?.();
    if (this.#eviction) this.fail("limit", this.#eviction);
    if (!this.hasNoUnreadWrite && ++this.#stalledTicks * tickMs >= limits.unreadMs) {
      this.#stalledTicks = 0;
      this.fail("limit", new ServiceError("cancelled", `Nothing was read for ${limits.unreadMs} ms.`));
    }
    const { heartbeat } = this.#options;
    if (!heartbeat || ++this.#silentTicks < this.#heartbeatTicks) return;
    // A pending write detects a disconnect as well.
    if (this.hasNoUnreadWrite) this.write(heartbeat.text);
    this.#silentTicks = 0;
    this.#events.heartbeatDue?.();
  }

  /** Ends this body because the memory limit of all bodies is exceeded. */
  evict(maximumBytes: number, { atNextTick }: { atNextTick: boolean }): void {
    const message = `Buffered answers exceed ${maximumBytes} bytes; this one holds ${this.#heldBytes}.`;
    const error = new ServiceError("overloaded", message, { retryAfterSeconds: 1 });
    if (!atNextTick) {
      this.fail("limit", error);
      return;
    }
    this.#eviction = error;
    this.#reportHeldBytes();
  }

  /** Fails if `bytes` are too many for this body, and returns whether it did. */
  #failsAbove(bytes: number): boolean {
    const { maximumBytes } = this.#options;
    if (bytes <= maximumBytes) return false;
    const subject = this.isStream ? "The stream's unread events have" : "The answer has";
    const message = `${subject} ${bytes} bytes, the maximum is ${maximumBytes}.`;
    this.fail("limit", new ServiceError("cancelled", message));
    return true;
  }

  /** Writes the last text of an answer that is closing. */
  #close(text: string): void {
    this.#pendingBytes = 0;
    if (text !== "") this.#append(encoder.encode(text));
    this.#reportHeldBytes();
    if (this.hasNoUnreadWrite) this.#closeStream();
  }

  /** Discards the rest: a client that still reads gets an incomplete body. */
  #breakOff(): void {
    this.#end.apply("broken off");
  }

  #finished(reason: EndReason): void {
    this.#stream?.writer.abort(new Error("the answer broke off")).catch(ignore);
    this.#queue = [];
    this.#queuedBytes = this.#writingBytes = this.#pendingBytes = 0;
    this.#reportHeldBytes();
    this.#events.ended?.(reason);
  }

  #reportHeldBytes(): void {
    const before = this.#heldBytes;
    this.#heldBytes = this.#eviction ? 0 : this.unreadBytes + this.#pendingBytes;
    if (this.#heldBytes !== before) this.#events.held(this.#heldBytes - before);
  }

  #append(bytes: Uint8Array): void {
    this.#silentTicks = 0;
    this.#queuedBytes += bytes.length;
    if (bytes.length <= writeBytes) this.#queue.push({ bytes, isRest: false });
    else {
      for (let i = 0; i < bytes.length; i += writeBytes) {
        // A copy: a view would keep the whole buffer in memory.
        this.#queue.push({ bytes: bytes.slice(i, i + writeBytes), isRest: i > 0 });
      }
    }
    if (this.hasNoUnreadWrite) this.#writeNext();
  }

  #writeNext(): void {
    let count = 0;
    let bytes = 0;
    while (count < this.#queue.length && (count === 0 || bytes + this.#queue[count].bytes.length <= writeBytes)) {
      bytes += this.#queue[count++].bytes.length;
    }
    const pieces = this.#queue.splice(0, count).map((piece) => piece.bytes);
    const part = joinArrays(Uint8Array, pieces);
    this.#queuedBytes -= bytes;
    this.#writingBytes = bytes;
    // It rejects if the reader disconnected; `writer.closed` reports that.
    this.#opened()
      .writer.write(part)
      .then(() => this.#written(), ignore);
  }

  #written(): void {
    if (this.#end.phase === "ended") return;
    this.#stalledTicks = 0;
    this.#writingBytes = 0;
    if (this.#queue.length > 0) this.#writeNext();
    else if (!this.isOpen) this.#closeStream();
    this.#reportHeldBytes();
    this.#events.taken?.();
  }

  #closeStream(): void {
    this.#opened().writer.close().catch(ignore);
  }

  #opened() {
    if (!this.#stream) {
      // IdentityTransformStream is native: no JavaScript runs per chunk.
      const { readable, writable } = new IdentityTransformStream();
      const writer = writable.getWriter();
      writer.closed.then(
        () => this.#end.apply("delivered"),
        () => this.#end.apply("gone"),
      );
      this.#stream = { readable, writer };
    }
    return this.#stream;
  }
}

function ignore(): void {}
