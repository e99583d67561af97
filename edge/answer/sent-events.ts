/**
 * Resumes a stream without storing its tokens. Pure.
 * - SentEvents: the Worker counts and hashes the events that the client has received.
 * - RepeatedEvents: another cell computes the stream again and skips these events. Its text is the same, because sampling depends only on
 *   request and seed.
 * A choice's last event is not hashed, because it contains timings, which differ.
 */
import { joinArrays } from "../../shared/bytes.ts";
import { sseDone } from "../../shared/contracts/sse.ts";
import { ServiceError } from "../../shared/errors.ts";
import { fnv1a } from "../../shared/math/fnv1a.ts";

interface ChoicePlace {
  /** Number of sent events, without the choice's last event. */
  events: number;
  /** Hash of these events' text, uint32. */
  digest: number;
  isDone: boolean;
}

/** How much of a stream the client has received. The Worker sends it to cells as JSON. */
export interface StreamCursor {
  choices: ChoicePlace[];
  isUsageSent: boolean;
}

/** Parses an event id (RepeatedEvents.idOf) of a stream with one choice. Returns null for any other text. */
export function cursorAfter(eventId: string): StreamCursor | null {
  const [, events, digest, done, usage] = /^(\d{1,7})-([0-9a-z]{1,7})(!?)(u?)$/.exec(eventId) ?? [];
  if (events === undefined) return null;
  const place = { events: Number(events), digest: Number.parseInt(digest, 36), isDone: done !== "" };
  return { choices: [place], isUsageSent: usage !== "" };
}

export function streamStart(choices: number): StreamCursor {
  return { choices: placesOf(choices), isUsageSent: false };
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

/** Splits a stream into events. Each event includes the empty line that ends it. */
export class EventSplitter {
  #begun: Uint8Array[] = [];

  push(chunk: Uint8Array): Uint8Array[] {
    this.#begun.push(chunk);
    // JSON escapes line feeds, so a line feed ends a line of an event.
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

  get rest(): Uint8Array {
    return joinArrays(Uint8Array, this.#begun);
  }
}

/** `event` may be incomplete. Heartbeats are comments. */
export function isComment(event: Uint8Array): boolean {
  return event[0] === colon;
}

interface ChunkDelta {
  content?: string | null;
  tool_calls?: { function: { name?: string; arguments: string } }[];
}

interface Chunk {
  /** One element; empty in the usage chunk. */
  choices?: { index: number; text?: string; delta?: ChunkDelta; finish_reason: string | null }[];
  /** From the Responses API: the next three fields. */
  type?: string;
  delta?: string;
  item?: { name?: string };
  error?: unknown;
}

const lastTypes = new Set(["response.completed", "response.incomplete"]);

const decoder = new TextDecoder();
const data = "data: ";

/** The event must not be a comment. Returns null for [DONE]. */
function chunkOf(event: Uint8Array): Chunk | null {
  const text = decoder.decode(event);
  return text === sseDone ? null : (JSON.parse(text.slice(text.indexOf(data) + data.length)) as Chunk);
}

export class SentEvents {
  isDone = false;
  /** After an error, only `response.failed` and [DONE] may follow. */
  hasFailed = false;
  /** True after the first event that is not a comment. */
  hasBegun = false;
  readonly cursor: StreamCursor;

  constructor(before: StreamCursor) {
    this.cursor = structuredClone(before);
  }

  add(event: Uint8Array): void {
    if (isComment(event)) return;
    this.hasBegun = true;
    const chunk = chunkOf(event);
    if (chunk === null) {
      this.isDone = true;
      return;
    }
    const { choices = [], type, delta, item, error } = chunk;
    if (error !== undefined) this.hasFailed = true;
    else if (type !== undefined) advance(this.cursor.choices[0], delta ?? item?.name ?? "", lastTypes.has(type));
    else if (choices.length === 0) this.cursor.isUsageSent = true;
    for (const { index, text = "", delta, finish_reason } of choices) {
      const called = (delta?.tool_calls ?? []).map(({ function: told }) => (told.name ?? "") + told.arguments);
      const told = [delta?.content ?? text, ...called].join("");
      advance(this.cursor.choices[index], told, finish_reason !== null);
    }
  }

  /** Adds all bytes of a stream and returns the bytes after its last event. A complete stream is not parsed. */
  addStream(bytes: Uint8Array): Uint8Array {
    const end = bytes.subarray(-sseDone.length);
    if (decoder.decode(end) === sseDone) this.add(end);
    if (this.isDone) return bytes.subarray(bytes.length);
    const splitter = new EventSplitter();
    for (const event of splitter.push(bytes)) this.add(event);
    return splitter.rest;
  }
}

/** Finds the event of a resumed stream whose first bytes the client has already received. */
export class PartialEvent {
  readonly #beginning: Uint8Array;
  readonly #held: Uint8Array[] = [];
  /** Choices that have had an event; null: the usage chunk. Only a choice's first event can begin with the client's bytes. */
  readonly #choices = new Set<number | null>();

  constructor(beginning: Uint8Array) {
    this.#beginning = beginning;
  }

  /** Returns the event, followed by all other events so far; null if it has not arrived. Throws an Error if the stream ends without it. */
  take(events: readonly Uint8Array[]): Uint8Array[] | null {
    let found: Uint8Array | null = null;
    for (const event of events) {
      if (isComment(event)) continue;
      const chunk = chunkOf(event);
      const choice = chunk?.type === undefined ? (chunk?.choices?.[0]?.index ?? null) : 0;
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

export class RepeatedEvents {
  readonly #sent: StreamCursor;
  readonly #computed: ChoicePlace[];

  constructor(sent: StreamCursor) {
    this.#sent = sent;
    this.#computed = placesOf(sent.choices.length);
  }

  get isUsageSent(): boolean {
    return this.#sent.isUsageSent;
  }

  /** Id of a choice's latest event: its count and hash, as `12-1n4kq7r`. `!` marks the choice's last event, `u` the usage chunk. */
  idOf(choice: number, isUsage: boolean): string {
    const { events, digest, isDone } = this.#computed[choice];
    return `${events}-${digest.toString(36)}${isDone ? "!" : ""}${isUsage ? "u" : ""}`;
  }

  /** Returns whether the client has received this event. Throws numerics_mismatch if the client has received different text. */
  skipIfSent(choice: number, text: string, isDone: boolean): boolean {
    const [sent, computed] = [this.#sent.choices[choice], this.#computed[choice]];
    advance(computed, text, isDone);
    const isOther = computed.events === sent.events && computed.digest !== sent.digest;
    const endsElsewhere = isDone ? computed.events < sent.events : sent.isDone && computed.events > sent.events;
    if (isOther || endsElsewhere) {
      const message = "The interrupted completion cannot continue: it is computed differently now.";
      throw new ServiceError("numerics_mismatch", message);
    }
    return isDone ? sent.isDone : computed.events <= sent.events;
  }
}
