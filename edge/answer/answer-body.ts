/** Response bodies with a limit on held bytes. A body queues its text itself, because the runtime's streams queue without a limit. */
import { joinArrays } from "../../shared/bytes.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { AnswerEnd, type EndReason } from "./answer-end.ts";

/** Maximum bytes held by all bodies of a Durable Object. Four such objects may share an isolate, which has 128 MB. */
const objectBodyBytes = 16 * 2 ** 20;

/** Maximum bytes held by all large answers that a Worker's isolate makes itself. */
export const workerBodyBytes = 32 * 2 ** 20;

/** Maximum bytes of one stream write. After a failure, queued pieces can be discarded, but written pieces cannot. */
const writeBytes = 16 * 1024;

/** Maximum bytes of an answer that is sent at once, with a `content-length`. A larger answer is streamed. */
export const shortAnswerBytes = 64 * 1024;

/** An answer's writer pauses while its client has at least this many unread bytes. */
export const unreadAheadBytes = limits.unreadBytes / 16;

/** Events, or pieces of a large answer, are joined to about this many bytes before a write. */
export const joinedBytes = 8 * 1024;

const tickMs = 50;

interface BodyOptions {
  tenant: string;
  maximumBytes: number;
  /** Written after `everyMs` without output, because only a write detects a disconnect. null: no heartbeats. */
  heartbeat: { text: string; everyMs: number } | null;
}

interface BodyEvents {
  ticked?(): void;
  heartbeatDue?(): void;
  drained?(): void;
  /** Called once, when the answer leaves `open`. Later writes do nothing. */
  settled(reason: EndReason): void;
  /** Returns the text that ends the body with `error`; null if the body must be cut off instead. */
  errorText(error: ServiceError): string | null;
  ended?(reason: EndReason): void;
}

export class AnswerBodies {
  readonly #maximumBytes: number;
  readonly #ofRequests: boolean;
  readonly #tenants = new Map<string, Set<AnswerBody>>();
  #heldBytes = 0;
  #timer: ReturnType<typeof setInterval> | null = null;

  /** `ofRequests`: bodies belong to different requests. workerd forbids a request to use another request's timers and streams. */
  constructor({ maximumBytes = objectBodyBytes, ofRequests = false } = {}) {
    this.#maximumBytes = maximumBytes;
    this.#ofRequests = ofRequests;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  hasRoom(tenant: string, bytes: number): boolean {
    return sum(this.#tenants.get(tenant) ?? []) + bytes <= this.#maximumBytes / 2;
  }

  countOf(tenant: string): number {
    return this.#tenants.get(tenant)?.size ?? 0;
  }

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
        if (this.#tenants.size === 0 && this.#timer !== null) {
          clearInterval(this.#timer);
          this.#timer = null;
        }
        events.ended?.(reason);
      },
      held: (changedBytes) => {
        this.#heldBytes += changedBytes;
        if (changedBytes > 0) this.#evictLargest();
      },
    });
    bodies.add(body);
    const timer = this.#ofRequests ? setInterval(() => body.tick(), tickMs) : null;
    const tickAll = () => {
      for (const one of this.#tenants.values()) for (const body of one) body.tick();
    };
    if (!this.#ofRequests) this.#timer ??= setInterval(tickAll, tickMs);
    return body;
  }

  /** Ends the largest body of the tenant with the most held bytes, until all bodies together are within the maximum. */
  #evictLargest(): void {
    while (this.#heldBytes > this.#maximumBytes) {
      const heaviest = largest(this.#tenants.values(), (bodies) => sum(bodies));
      largest(heaviest, ({ heldBytes }) => heldBytes).evict(this.#maximumBytes, { atNextTick: this.#ofRequests });
    }
  }
}

function largest<T>(all: Iterable<T>, sizeOf: (one: T) => number): T {
  return [...all].reduce((a, b) => (sizeOf(b) > sizeOf(a) ? b : a));
}

function sum(bodies: Iterable<AnswerBody>): number {
  let bytes = 0;
  for (const { heldBytes } of bodies) bytes += heldBytes;
  return bytes;
}

const encoder = new TextEncoder();

interface Piece {
  /** At most `writeBytes` long. */
  bytes: Uint8Array;
  /** True if this piece continues the text of the previous piece. */
  isRest: boolean;
}

export class AnswerBody {
  readonly #options: BodyOptions;
  readonly #events: BodyEvents & { held(changedBytes: number): void };
  readonly #end: AnswerEnd;
  readonly #heartbeatTicks: number;
  #stream: { readable: ReadableStream<Uint8Array>; writer: WritableStreamDefaultWriter<Uint8Array> } | null = null;
  #writingBytes = 0;
  #queue: Piece[] = [];
  #queuedBytes = 0;
  #pendingBytes = 0;
  #heldBytes = 0;
  #silentTicks = 0;
  /** Ticks since the pending write began. */
  #stalledTicks = 0;
  /** Error that ends this body at its next tick. A body with an eviction counts as empty. */
  #eviction: ServiceError | null = null;

  constructor(options: BodyOptions, events: BodyEvents & { held(changedBytes: number): void }) {
    this.#options = options;
    this.#events = events;
    this.#end = new AnswerEnd({ settled: events.settled, finished: (reason) => this.#finished(reason) });
    // One tick less than the interval, because a tick may come late.
    this.#heartbeatTicks = Math.max(1, Math.floor((options.heartbeat?.everyMs ?? 0) / tickMs) - 1);
  }

  get isOpen(): boolean {
    return this.#end.phase === "open";
  }

  get isStream(): boolean {
    return this.#options.heartbeat !== null;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  get isWriting(): boolean {
    return this.#writingBytes > 0;
  }

  get unreadBytes(): number {
    return this.#writingBytes + this.#queuedBytes;
  }

  /** Created on first use, because a short answer needs no stream. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#opened().readable;
  }

  /** Ends the answer if more than `maximumBytes` would be unread. While nothing is unread, a text of any size is queued. */
  write(text: string | Uint8Array): void {
    if (!this.isOpen || text.length === 0) return;
    const bytes = typeof text === "string" ? encoder.encode(text) : text;
    if (this.unreadBytes > 0 && this.#failIfAbove(this.unreadBytes + bytes.length)) return;
    this.#append(bytes);
    this.#reportHeldBytes();
  }

  /** Sets the bytes that the answer's writer holds. `isBounded`: ends the answer if writer and body hold more than `maximumBytes`. */
  setPendingBytes(bytes: number, isBounded: boolean): void {
    if (!this.isOpen) return;
    this.#pendingBytes = bytes;
    this.#reportHeldBytes();
    if (isBounded) this.#failIfAbove(this.#heldBytes);
  }

  complete(text: string): void {
    if (this.#end.apply("complete")) this.#close(text);
  }

  completeUnused(): void {
    if (this.#end.apply("complete")) this.#end.apply("broken off");
  }

  /** Ends the answer with the error's text. A partly written text is completed, so that no event is cut; later texts are discarded. */
  fail(reason: "failed" | "deadline" | "limit", error: ServiceError): void {
    if (!this.#end.apply(reason)) return;
    if (this.#end.phase === "ended") return;
    const text = this.#events.errorText(error);
    if (text === null) {
      this.#end.apply("broken off");
      return;
    }
    const next = this.#queue.findIndex(({ isRest }) => !isRest);
    if (next >= 0) this.#queue.length = next;
    this.#queuedBytes = this.#queue.reduce((sum, { bytes }) => sum + bytes.length, 0);
    this.#close(text);
  }

  leave(): void {
    this.#end.apply("gone");
  }

  tick(): void {
    this.#events.ticked?.();
    if (this.#eviction) this.fail("limit", this.#eviction);
    if (this.isWriting && ++this.#stalledTicks * tickMs >= limits.unreadMs) {
      this.#stalledTicks = 0;
      this.fail("limit", new ServiceError("cancelled", `Nothing was read for ${limits.unreadMs} ms.`));
    }
    const { heartbeat } = this.#options;
    if (!heartbeat || ++this.#silentTicks < this.#heartbeatTicks) return;
    // A pending write detects a disconnect, so no heartbeat is needed.
    if (!this.isWriting) this.write(heartbeat.text);
    this.#silentTicks = 0;
    this.#events.heartbeatDue?.();
  }

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

  #failIfAbove(bytes: number): boolean {
    const { maximumBytes } = this.#options;
    if (bytes <= maximumBytes) return false;
    const subject = this.isStream ? "The stream's unread events have" : "The answer has";
    const message = `${subject} ${bytes} bytes, the maximum is ${maximumBytes}.`;
    this.fail("limit", new ServiceError("cancelled", message));
    return true;
  }

  #close(text: string): void {
    this.#pendingBytes = 0;
    if (text !== "") this.#append(encoder.encode(text));
    this.#reportHeldBytes();
    if (!this.isWriting) this.#closeStream();
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
    for (let i = 0; i < bytes.length; i += writeBytes) {
      // A copy, because a view would keep the whole text in RAM until its last piece is read.
      const piece = bytes.length <= writeBytes ? bytes : bytes.slice(i, i + writeBytes);
      this.#queue.push({ bytes: piece, isRest: i > 0 });
    }
    if (!this.isWriting) this.#writeNext();
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
    // A disconnect rejects the write; `writer.closed` handles the disconnect.
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
    this.#events.drained?.();
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
