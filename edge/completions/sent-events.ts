/**
 * How far a client has a stream, by the events that it got. A cell that is to go on from there makes the whole stream again, which
 * gives the same text because sampling is a function of request and seed, and leaves out what the client has. Pure.
 *
 * An event ends with an empty line. It belongs to one choice, but for the chunk with the usage, an error and [DONE]. Events with
 * a finish_reason are not compared: they have timings.
 */
import { sseDone } from "../../shared/contracts/sse.ts";
import { ServiceError } from "../../shared/errors.ts";
import { joinArrays } from "../../shared/join-arrays.ts";
import { fnv1a } from "../../shared/math/fnv1a.ts";

/** How far one choice has come. */
interface ChoicePlace {
  /** Events without a finish_reason. */
  events: number;
  /** Of their text: uint32. */
  digest: number;
  /** Its last event, with a finish_reason, has come. */
  isDone: boolean;
}

/** How far a stream has come; JSON. */
export interface StreamCursor {
  choices: ChoicePlace[];
  /** The chunk with the usage has come. */
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

/** Cuts a stream into events, however its bytes are cut into chunks. */
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

/** What an event that is no comment says; null for [DONE]. */
function chunkOf(event: Uint8Array): Chunk | null {
  const text = decoder.decode(event);
  return text === sseDone ? null : (JSON.parse(text.slice("data: ".length)) as Chunk);
}

/** The events that a client has got. */
export class SentEvents {
  /** [DONE] is one of them. */
  isDone = false;
  /** An error is one of them, after which only [DONE] comes. */
  hasFailed = false;
  /** There is one that is no comment. */
  hasBegun = false;
  /** Where another cell is to go on. */
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

/** Looks in a stream that is made again for the event of which the client has the beginning. */
export class BegunEvent {
  readonly #beginning: Uint8Array;
  /** The events before it, without comments. */
  readonly #held: Uint8Array[] = [];
  /** The choices of those; null for the chunk with the usage. Only the first event of a choice can be the one. */
  readonly #choices = new Set<number | null>();

  constructor(beginning: Uint8Array) {
    this.#beginning = beginning;
  }

  /**
   * Takes the stream's next events. Returns it and all others so far, it first, or null where it has not come. Throws an Error if the
   * stream ends without it.
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

/** The events of a stream that is made again for a client that has it up to a cursor. */
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
   * Takes the next event of a choice, and returns whether the client has it. Throws numerics_mismatch if what it has of the choice is
   * another text.
   */
  skipIfSent(choice: number, text: string, isDone: boolean): boolean {
    const [sent, made] = [this.#sent.choices[choice], this.#made[choice]];
    advance(made, text, isDone);
    const isOther = made.events === sent.events && made.digest !== sent.digest;
    const endsElsewhere = isDone ? made.events < sent.events : sent.isDone && made.events > sent.events;
    if (isOther || endsElsewhere) {
      throw new ServiceError(
        "numerics_mismatch",
        "The interrupted completion cannot go on: it is computed differently now.",
      );
    }
    return isDone ? sent.isDone : made.events <= sent.events;
  }
}
