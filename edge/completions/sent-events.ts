/**
 * How far a client has a stream, by the events that it got. A cell that is to go on from there makes the whole stream again, which
 * gives the same text because sampling is a function of request and seed, and leaves out what the client has. Pure.
 *
 * An event ends with an empty line. It belongs to one choice, but for the chunk with the usage, an error and [DONE]. Events with
 * a finish_reason are not compared: they have timings.
 */
import { sseDone } from "../../shared/contracts/sse.ts";
import { ServiceError } from "../../shared/errors.ts";
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
    const bytes = joined(this.#begun);
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
    return joined(this.#begun);
  }
}

/** Whether an event, or the beginning of one, is a comment such as a heartbeat. */
export function isComment(event: Uint8Array): boolean {
  return event[0] === colon;
}

interface ChunkChoice {
  index: number;
  text?: string;
  delta?: { content?: string };
  finish_reason: string | null;
}

/** The events that a client has got. */
export class SentEvents {
  /** [DONE] is one of them. */
  isDone = false;
  /** An error is one of them, after which only [DONE] comes. */
  hasFailed = false;
  readonly #cursor: StreamCursor;
  readonly #decoder = new TextDecoder();
  #hasBegun = false;

  constructor(choices: number) {
    this.#cursor = { choices: placesOf(choices), isUsageSent: false };
  }

  /** Where another cell is to go on. */
  get cursor(): StreamCursor {
    return this.#cursor;
  }

  /** There is one that is no comment. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  add(event: Uint8Array): void {
    if (isComment(event)) return;
    this.#hasBegun = true;
    const text = this.#decoder.decode(event);
    if (text === sseDone) {
      this.isDone = true;
      return;
    }
    const { choices = [], error } = JSON.parse(text.slice("data: ".length)) as {
      choices?: ChunkChoice[];
      error?: unknown;
    };
    if (error !== undefined) this.hasFailed = true;
    else if (choices.length === 0) this.#cursor.isUsageSent = true;
    for (const { index, text = "", delta, finish_reason } of choices) {
      advance(this.#cursor.choices[index], delta?.content ?? text, finish_reason !== null);
    }
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

  /** Whether the client has the next event of a choice. Throws numerics_mismatch if what it has of the choice is another text. */
  isSent(choice: number, text: string, isDone: boolean): boolean {
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

export function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let length = 0;
  for (const part of parts) {
    whole.set(part, length);
    length += part.length;
  }
  return whole;
}
