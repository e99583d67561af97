/**
 * Which events of a stream a client has received. A cell that continues the stream computes it again from the start, which gives the
 * same text because sampling is a function of request and seed, and leaves out the events that the client has. Pure.
 *
 * An event ends with an empty line. It belongs to one choice, but for the chunk with the usage, an error and [DONE]. Events with
 * a finish_reason are not compared: they have timings.
 */
import { sseDone } from "../../shared/contracts/sse.ts";
import { ServiceError } from "../../shared/errors.ts";
import { joinArrays } from "../../shared/join-arrays.ts";
import { fnv1a } from "../../shared/math/fnv1a.ts";

/** The events of one choice that were sent. */
interface ChoicePlace {
  /** Number of events without a finish_reason. */
  events: number;
  /** Hash of their text, uint32. */
  digest: number;
  /** The last event, with a finish_reason, was sent. */
  isDone: boolean;
}

/** The events of a stream that were sent; JSON. */
export interface StreamCursor {
  choices: ChoicePlace[];
  /** The chunk with the usage was sent. */
  isUsageSent: boolean;
}

function placesOf(choices: number): ChoicePlace[] {
  return Array.from({ length: choices }, () => ({ events: 0, digest: fnv1a(""), isDone: false }));
}

function advance(place: ChoicePlace, text: string, isDone: boolean): void {
  if (isDone) place.isDone = true;
  else {
    place.events++;
    place.digest = fnv1a(text, place.digest);
  }
}

const [lineFeed, colon] = [10, 58];

/** Splits a stream's bytes into events, wherever its chunks end. */
export class EventSplitter {
  /** The event that has begun and not ended. */
  #begun: Uint8Array[] = [];

  /** The events that a chunk completes. */
  push(chunk: Uint8Array): Uint8Array[] {
    this.#begun.push(chunk);
    // Only the end of an event has line feeds: JSON escapes its own.
    if (!chunk.includes(lineFeed)) return [];
    const bytes = joinArrays(Uint8Array, this.#begun);
    const events: Uint8Array[] = [];
    let start = 0;
    for (let at = bytes.indexOf(lineFeed); at >= 0; at = bytes.indexOf(lineFeed, at + 1)) {
      if (bytes[at + 1] !== lineFeed) continue;
      at++;
      events.push(bytes.subarray(start, at + 1));
      start = at + 1;
    }
    this.#begun = start < bytes.length ? [bytes.subarray(start)] : [];
    return events;
  }

  /** The bytes behind the last event. */
  get rest(): Uint8Array {
    return joinArrays(Uint8Array, this.#begun);
  }
}

/** Whether an event, or the beginning of one, is a comment such as a heartbeat. */
export function isComment(event: Uint8Array): boolean {
  return event[0] === colon;
}

interface Chunk {
  /** One choice; none in the chunk with the usage. */
  choices?: { index: number; text?: string; delta?: { content?: string }; finish_reason: string | null }[];
  error?: unknown;
}

const decoder = new TextDecoder();

/** Parses an event that is not a comment; null for [DONE]. */
function chunkOf(event: Uint8Array): Chunk | null {
  const text = decoder.decode(event);
  return text === sseDone ? null : (JSON.parse(text.slice("data: ".length)) as Chunk);
}

/** The events that a client has received. */
export class SentEvents {
  /** [DONE] is one of them. */
  isDone = false;
  /** An error is one of them, after which only [DONE] comes. */
  hasFailed = false;
  /** One of them is not a comment. */
  hasBegun = false;
  /** Where another cell continues. */
  readonly cursor: StreamCursor;

  constructor(choices: number) {
    this.cursor = { choices: placesOf(choices), isUsageSent: false };
  }

  add(event: Uint8Array): void {
    if (isComment(event)) return;
    this.hasBegun = true;
    const chunk = chunkOf(event);
    if (chunk === null) {
      this.isDone = true;
      return;
    }
    const { choices = [], error } = chunk;
    if (error !== undefined) this.hasFailed = true;
    else if (choices.length === 0) this.cursor.isUsageSent = true;
    for (const { index, text = "", delta, finish_reason } of choices) {
      advance(this.cursor.choices[index], delta?.content ?? text, finish_reason !== null);
    }
  }

  /** Adds a whole stream, and returns the bytes behind its last event. Of one that is done nothing else is read. */
  addStream(bytes: Uint8Array): Uint8Array {
    const end = bytes.subarray(-sseDone.length);
    if (decoder.decode(end) === sseDone) this.add(end);
    if (this.isDone) return bytes.subarray(bytes.length);
    const splitter = new EventSplitter();
    for (const event of splitter.push(bytes)) this.add(event);
    return splitter.rest;
  }
}

/** Finds, in a stream that is computed again, the event of which the client has only the beginning. */
export class BegunEvent {
  readonly #beginning: Uint8Array;
  /** The events before it, without comments. */
  readonly #held: Uint8Array[] = [];
  /** Their choices; null for the chunk with the usage. Only the first event of a choice can continue the beginning. */
  readonly #choices = new Set<number | null>();

  constructor(beginning: Uint8Array) {
    this.#beginning = beginning;
  }

  /**
   * Takes the stream's next events. Returns the wanted event followed by all others so far, or null while it has not arrived. Throws
   * an Error if the stream ends without it.
   */
  take(events: readonly Uint8Array[]): Uint8Array[] | null {
    let found: Uint8Array | null = null;
    for (const event of events) {
      if (isComment(event)) continue;
      const chunk = chunkOf(event);
      const choice = chunk?.choices?.[0]?.index ?? null;
      if (!found && !this.#choices.has(choice) && this.#beginning.every((byte, i) => byte === event[i])) found = event;
      else this.#held.push(event);
      this.#choices.add(choice);
      if (found) continue;
      if (chunk?.error !== undefined) throw new Error(`it failed in the next cell: ${JSON.stringify(chunk.error)}`);
      if (chunk === null) throw new Error("the event that the client has in part is computed differently now");
    }
    return found && [found, ...this.#held];
  }
}

/** The events of a stream that is computed again for a client that has it up to a cursor. */
export class RepeatedEvents {
  readonly #sent: StreamCursor;
  readonly #made: ChoicePlace[];

  constructor(sent: StreamCursor) {
    this.#sent = sent;
    this.#made = placesOf(sent.choices.length);
  }

  /** The client has the chunk with the usage. */
  get isUsageSent(): boolean {
    return this.#sent.isUsageSent;
  }

  /**
   * Takes the next event of a choice and returns whether the client has it. Throws numerics_mismatch if the client has other text of
   * this choice.
   */
  skipIfSent(choice: number, text: string, isDone: boolean): boolean {
    const [sent, made] = [this.#sent.choices[choice], this.#made[choice]];
    advance(made, text, isDone);
    const isOther = made.events === sent.events && made.digest !== sent.digest;
    const endsElsewhere = isDone ? made.events < sent.events : sent.isDone && made.events > sent.events;
    if (isOther || endsElsewhere) {
      throw new ServiceError(
        "numerics_mismatch",
        "The interrupted completion cannot continue: it is computed differently now.",
      );
    }
    return isDone ? sent.isDone : made.events <= sent.events;
  }
}
