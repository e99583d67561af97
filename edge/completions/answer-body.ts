/**
 * Bodies of the answers of one object, with a bound on the bytes that they hold: what a reader has not taken yet and, for a
 * whole answer, what is known of it so far. The runtime's streams accept any number of writes; so a body gives its stream
 * one write at a time, which settles when the next stage (object, Worker, socket) has taken it, and holds the rest itself.
 */
import { ServiceError } from "../../shared/errors.ts";

/** Held by all bodies of one object. An isolate has 128 MB; with four shards in it, bodies take half of that at most. */
export const objectBodyBytes = 16 * 2 ** 20;

/** The most that a stream is given at once: it cannot be taken back where an answer is cancelled. */
const writeBytes = 64 * 1024;

/** How often open bodies are told that they are, and silent streams are looked for, in milliseconds. */
const tickMs = 50;

export interface BodyOptions {
  tenant: string;
  /** Bytes that this body may hold. */
  maximumBytes: number;
  /** What a stream of events writes after `everyMs` of silence: only a write shows that the reader is gone. */
  heartbeat: { text: string; everyMs: number } | null;
}

export interface BodyEvents {
  /** The body is still open; called every `tickMs`. */
  ticked?(): void;
  /** A heartbeat is due, or a write is unread for as long. */
  silent(): void;
  /** The body holds too much: it has to end now, by `closeWith` or `breakOff`. */
  overflowed(error: ServiceError): void;
  /** The end, told once: whether the reader was gone. */
  ended(isGone: boolean): void;
}

export class AnswerBodies {
  readonly #maximumBytes: number;
  readonly #tenants = new Map<string, Set<AnswerBody>>();
  #heldBytes = 0;
  /** Runs while there are any. */
  #timer: ReturnType<typeof setInterval> | null = null;

  constructor(maximumBytes: number = objectBodyBytes) {
    this.#maximumBytes = maximumBytes;
  }

  /** Held by all of them. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** How many streams of events a tenant has. */
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
      ticked: events.ticked,
      silent: events.silent,
      overflowed: events.overflowed,
      ended: (isGone) => {
        bodies.delete(body);
        if (bodies.size === 0) this.#tenants.delete(tenant);
        if (this.#tenants.size === 0) this.#stop();
        events.ended(isGone);
      },
      held: (changedBytes) => {
        this.#heldBytes += changedBytes;
        if (changedBytes > 0) this.#makeRoom();
      },
    });
    bodies.add(body);
    this.#timer ??= setInterval(() => this.#tick(), tickMs);
    return body;
  }

  /** Ends the largest answer of the tenant whose answers hold most, until the rest fits. */
  #makeRoom(): void {
    while (this.#heldBytes > this.#maximumBytes) {
      const heaviest = largest(this.#tenants.values(), (bodies) => sum(bodies));
      largest(heaviest, ({ heldBytes }) => heldBytes).makeRoom(this.#maximumBytes);
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

/** Of at least one. */
function largest<T>(all: Iterable<T>, sizeOf: (one: T) => number): T {
  return [...all].reduce((a, b) => (sizeOf(b) > sizeOf(a) ? b : a));
}

function sum(bodies: Iterable<AnswerBody>): number {
  let bytes = 0;
  for (const { heldBytes } of bodies) bytes += heldBytes;
  return bytes;
}

const encoder = new TextEncoder();

export class AnswerBody {
  readonly #options: BodyOptions;
  readonly #events: BodyEvents & { held(changedBytes: number): void };
  readonly #heartbeatTicks: number;
  #stream: { readable: ReadableStream<Uint8Array>; writer: WritableStreamDefaultWriter<Uint8Array> } | null = null;
  /** Given to the stream, and not read. */
  #writingBytes = 0;
  /** To be written next, in parts of `writeBytes` at most. */
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #keptBytes = 0;
  #heldBytes = 0;
  #silentTicks = 0;
  /** Nothing is written after what waits. */
  #isClosing = false;
  #hasEnded = false;

  constructor(options: BodyOptions, events: BodyEvents & { held(changedBytes: number): void }) {
    this.#options = options;
    this.#events = events;
    // A tick may come right after a write.
    this.#heartbeatTicks = Math.max(1, Math.floor((options.heartbeat?.everyMs ?? 0) / tickMs) - 1);
  }

  get isStream(): boolean {
    return this.#options.heartbeat !== null;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** All that was written has been read. */
  get isRead(): boolean {
    return this.#writingBytes === 0;
  }

  /** The response's body. Made when it is needed: a short whole answer is none. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#opened().readable;
  }

  /** Never waits. Where more than `maximumBytes` are unread already it writes nothing, and the body has to end. */
  write(text: string): void {
    if (this.#isClosing || this.#hasEnded || text === "") return;
    if (this.#overflows()) return;
    this.#append(text);
    this.#told();
  }

  /** Says how much is known of an answer that is written when it is complete. */
  keep(bytes: number): void {
    if (this.#isClosing || this.#hasEnded) return;
    this.#keptBytes = bytes;
    this.#told();
    this.#overflows();
  }

  /** Writes the last text, in place of what was kept, and ends when all is read. Never waits. */
  close(text: string): void {
    if (this.#isClosing || this.#hasEnded) return;
    this.#isClosing = true;
    this.#keptBytes = 0;
    if (text !== "") this.#append(text);
    this.#told();
    if (this.isRead) this.#finish();
  }

  /** The same without what waits to be written. */
  closeWith(text: string): void {
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.close(text);
  }

  /** Ends at once. Whoever still reads sees a body that broke off. */
  breakOff(): void {
    this.#stream?.writer.abort(new Error("the answer broke off")).catch(ignore);
    this.#end(false);
  }

  tick(): void {
    this.#events.ticked?.();
    const { heartbeat } = this.#options;
    if (!heartbeat || ++this.#silentTicks < this.#heartbeatTicks) return;
    // A write that is unread tells as well whether the reader is gone.
    if (this.isRead) this.write(heartbeat.text);
    this.#silentTicks = 0;
    this.#events.silent();
  }

  /** Lets go of what it holds: the bodies of its object hold more than `maximumBytes`, and it is the largest. */
  makeRoom(maximumBytes: number): void {
    if (this.#isClosing) {
      this.breakOff();
      return;
    }
    const message = `The answers at this place hold more than ${maximumBytes} bytes, the maximum; ${this.#heldBytes} of them are this one's, unread or not complete.`;
    this.#events.overflowed(new ServiceError("overloaded", message, { retryAfterSeconds: 1 }));
    // Whatever came of it, it ends.
    if (!this.#isClosing) this.breakOff();
  }

  #overflows(): boolean {
    const { maximumBytes } = this.#options;
    if (this.#heldBytes <= maximumBytes) return false;
    const subject = this.isStream ? "The stream's unread events have" : "The answer has";
    const message = `${subject} ${this.#heldBytes} bytes, the maximum is ${maximumBytes}.`;
    this.#events.overflowed(new ServiceError("cancelled", message));
    return true;
  }

  /** Reports what it holds. */
  #told(): void {
    const before = this.#heldBytes;
    this.#heldBytes = this.#writingBytes + this.#waitingBytes + this.#keptBytes;
    if (this.#heldBytes !== before) this.#events.held(this.#heldBytes - before);
  }

  #append(text: string): void {
    this.#silentTicks = 0;
    const bytes = encoder.encode(text);
    this.#waitingBytes += bytes.length;
    if (bytes.length <= writeBytes) this.#waiting.push(bytes);
    // Copies: a view of a part would keep all the others.
    else for (let i = 0; i < bytes.length; i += writeBytes) this.#waiting.push(bytes.slice(i, i + writeBytes));
    if (this.isRead) this.#writeNext();
  }

  #writeNext(): void {
    let count = 0;
    let bytes = 0;
    while (count < this.#waiting.length && (count === 0 || bytes + this.#waiting[count].length <= writeBytes)) {
      bytes += this.#waiting[count++].length;
    }
    const part = joined(this.#waiting.splice(0, count), bytes);
    this.#waitingBytes -= bytes;
    this.#writingBytes = bytes;
    // Where it fails the reader is gone, which `closed` tells.
    this.#opened()
      .writer.write(part)
      .then(() => this.#written(), ignore);
  }

  #written(): void {
    if (this.#hasEnded) return;
    this.#writingBytes = 0;
    if (this.#waiting.length > 0) this.#writeNext();
    else if (this.#isClosing) this.#finish();
    this.#told();
  }

  #finish(): void {
    this.#opened().writer.close().catch(ignore);
  }

  #opened() {
    if (!this.#stream) {
      // The runtime's own: a stream of JavaScript's takes a turn of it for each chunk.
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
    this.#waiting = [];
    this.#waitingBytes = this.#writingBytes = this.#keptBytes = 0;
    this.#told();
    this.#events.ended(isGone);
  }
}

function joined(parts: readonly Uint8Array[], bytes: number): Uint8Array {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(bytes);
  let length = 0;
  for (const part of parts) {
    whole.set(part, length);
    length += part.length;
  }
  return whole;
}

function ignore(): void {}
