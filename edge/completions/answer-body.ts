/**
 * Response bodies of one Durable Object, with a bound on the bytes that they hold: unread bytes and, for a non-streamed
 * answer, the parts kept so far. The runtime's streams queue writes without a bound. So a body has at most one write
 * pending in its stream, which settles when the next stage (object, Worker, socket) has read it, and queues the rest itself.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { joinArrays } from "../../shared/join-arrays.ts";

/** Maximum bytes held by all bodies of one object. An isolate has 128 MB; with four cells in it, bodies use half at most. */
const objectBodyBytes = 16 * 2 ** 20;

/** Maximum bytes per stream write; written data cannot be withdrawn after a cancel. */
const writeBytes = 16 * 1024;

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
  /** The body is still open; called every `tickMs`. */
  ticked?(): void;
  /** No write completed for `everyMs`. */
  heartbeatDue(): void;
  /** The reader has taken what was written, or some of it. */
  taken?(): void;
  /** The body exceeds a limit. The callee must end it now, with `closeWith` or `breakOff`. */
  overflowed(error: ServiceError): void;
  /** Called once, when the body has ended. `isGone`: the reader disconnected. */
  ended(isGone: boolean): void;
}

export class AnswerBodies {
  readonly #maximumBytes: number;
  readonly #tenants = new Map<string, Set<AnswerBody>>();
  #heldBytes = 0;
  /** Runs while a body is open. */
  #timer: ReturnType<typeof setInterval> | null = null;

  constructor(maximumBytes: number = objectBodyBytes) {
    this.#maximumBytes = maximumBytes;
  }

  /** Bytes held by all bodies. */
  get heldBytes(): number {
    return this.#heldBytes;
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
      ended: (isGone) => {
        bodies.delete(body);
        if (bodies.size === 0) this.#tenants.delete(tenant);
        if (this.#tenants.size === 0) this.#stop();
        events.ended(isGone);
      },
      held: (changedBytes) => {
        this.#heldBytes += changedBytes;
        if (changedBytes > 0) this.#evictLargest();
      },
    });
    bodies.add(body);
    this.#timer ??= setInterval(() => this.#tick(), tickMs);
    return body;
  }

  /** While the limit is exceeded, ends the largest body of the tenant whose bodies hold most. */
  #evictLargest(): void {
    while (this.#heldBytes > this.#maximumBytes) {
      const heaviest = largest(this.#tenants.values(), (bodies) => sum(bodies));
      largest(heaviest, ({ heldBytes }) => heldBytes).evict(this.#maximumBytes);
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
  /** No more data is accepted; the stream closes when the queue is empty. */
  #isClosing = false;
  /** `closeWith` has discarded the rest of the answer. */
  #isCutOff = false;
  #hasEnded = false;

  constructor(options: BodyOptions, events: BodyEvents & { held(changedBytes: number): void }) {
    this.#options = options;
    this.#events = events;
    // A tick may follow a write immediately.
    this.#heartbeatTicks = Math.max(1, Math.floor((options.heartbeat?.everyMs ?? 0) / tickMs) - 1);
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

  /**
   * Queues `text` without waiting. Reports `overflowed` instead if more than `maximumBytes` would be unread; a text that is
   * larger alone is written when nothing else is.
   */
  write(text: string): void {
    if (this.#isClosing || this.#hasEnded || text === "") return;
    const bytes = encoder.encode(text);
    if (this.unreadBytes > 0 && this.#overflows(this.unreadBytes + bytes.length)) return;
    this.#append(bytes);
    this.#reportHeldBytes();
  }

  /** Sets the bytes kept for what will be written later. `isBounded`: reports `overflowed` if all is above `maximumBytes`. */
  setPendingBytes(bytes: number, isBounded: boolean): void {
    if (this.#isClosing || this.#hasEnded) return;
    this.#pendingBytes = bytes;
    this.#reportHeldBytes();
    if (isBounded) this.#overflows(this.#heldBytes);
  }

  /** Writes the last text and closes the stream once everything is read, without waiting. Pending bytes become 0. */
  close(text: string): void {
    if (this.#isClosing || this.#hasEnded) return;
    this.#isClosing = true;
    this.#pendingBytes = 0;
    if (text !== "") this.#append(encoder.encode(text));
    this.#reportHeldBytes();
    if (this.hasNoUnreadWrite) this.#finish();
  }

  /**
   * Discards queued data, also of a body that is closing, writes `text`, then closes. A text of which a piece is written keeps its
   * other pieces, so that no event ends in its middle.
   */
  closeWith(text: string): void {
    this.#isCutOff = true;
    const next = this.#queue.findIndex(({ isRest }) => !isRest);
    if (next >= 0) this.#queue.length = next;
    this.#queuedBytes = this.#queue.reduce((sum, { bytes }) => sum + bytes.length, 0);
    this.#isClosing = false;
    this.close(text);
  }

  /** Aborts the stream: a client that still reads gets an incomplete body. */
  breakOff(): void {
    this.#stream?.writer.abort(new Error("the answer broke off")).catch(ignore);
    this.#end(false);
  }

  tick(): void {
    this.#events.ticked?.();
    if (!this.hasNoUnreadWrite && ++this.#stalledTicks * tickMs >= limits.unreadMs) {
      this.#stalledTicks = 0;
      this.#cutOff(new ServiceError("cancelled", `Nothing was read for ${limits.unreadMs} ms.`));
    }
    const { heartbeat } = this.#options;
    if (!heartbeat || ++this.#silentTicks < this.#heartbeatTicks) return;
    // A pending write detects a disconnect as well.
    if (this.hasNoUnreadWrite) this.write(heartbeat.text);
    this.#silentTicks = 0;
    this.#events.heartbeatDue();
  }

  /** Ends this body because the object's memory limit is exceeded. */
  evict(maximumBytes: number): void {
    const message = `Buffered answers exceed ${maximumBytes} bytes; this one holds ${this.#heldBytes}.`;
    this.#cutOff(new ServiceError("overloaded", message, { retryAfterSeconds: 1 }));
  }

  /** Lets the callee end the answer with an error. Breaks off where it did not, or did before: its last write is too much. */
  #cutOff(error: ServiceError): void {
    const isFirst = !this.#isCutOff;
    if (isFirst) this.#events.overflowed(error);
    if (!isFirst || !this.#isClosing) this.breakOff();
  }

  /** Whether `bytes` are too many for this body; reports it then. */
  #overflows(bytes: number): boolean {
    const { maximumBytes } = this.#options;
    if (bytes <= maximumBytes) return false;
    const subject = this.isStream ? "The stream's unread events have" : "The answer has";
    const message = `${subject} ${bytes} bytes, the maximum is ${maximumBytes}.`;
    this.#events.overflowed(new ServiceError("cancelled", message));
    return true;
  }

  #reportHeldBytes(): void {
    const before = this.#heldBytes;
    this.#heldBytes = this.unreadBytes + this.#pendingBytes;
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
    if (this.#hasEnded) return;
    this.#stalledTicks = 0;
    this.#writingBytes = 0;
    if (this.#queue.length > 0) this.#writeNext();
    else if (this.#isClosing) this.#finish();
    this.#reportHeldBytes();
    this.#events.taken?.();
  }

  #finish(): void {
    this.#opened().writer.close().catch(ignore);
  }

  #opened() {
    if (!this.#stream) {
      // IdentityTransformStream is native: no JavaScript runs per chunk.
      const { readable, writable } = new IdentityTransformStream();
      const writer = writable.getWriter();
      writer.closed.then(
        () => this.#end(false),
        () => this.#end(true),
      );
      this.#stream = { readable, writer };
    }
    return this.#stream;
  }

  #end(isGone: boolean): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#queue = [];
    this.#queuedBytes = this.#writingBytes = this.#pendingBytes = 0;
    this.#reportHeldBytes();
    this.#events.ended(isGone);
  }
}

function ignore(): void {}
