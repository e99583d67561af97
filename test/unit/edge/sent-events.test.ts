import { expect, test } from "vitest";
import {
  EventSplitter,
  RepeatedEvents,
  SentEvents,
  type StreamCursor,
  streamStart,
} from "../../../edge/answer/sent-events.ts";
import { sseComment, sseDone, sseEvent } from "../../../shared/contracts/sse.ts";
import { seededRandom } from "../../support/steps.ts";

const utf8 = new TextEncoder();
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const chunk = (index: number, said: string, finish_reason: string | null = null) =>
  sseEvent(JSON.stringify({ choices: [{ index, text: said, finish_reason }] }));
const chatChunk = (index: number, content: string | undefined) =>
  sseEvent(JSON.stringify({ choices: [{ index, delta: { content }, finish_reason: null }] }));
const usage = sseEvent(JSON.stringify({ choices: [], usage: {} }));
const failure = sseEvent(JSON.stringify({ error: { message: "why" } }));

function sent(choices: number, ...events: string[]): SentEvents {
  const all = new SentEvents(streamStart(choices));
  for (const event of events) all.add(utf8.encode(event));
  return all;
}

test("a stream is split into its events, however its chunks are cut; the rest is the beginning of the next event", () => {
  const chunks = [chunk(0, "é\n\n"), sseComment("hb"), chunk(1, "x".repeat(300)), chatChunk(0, "\u{1f600}")];
  const events = [...chunks, usage, sseDone];
  const bytes = utf8.encode(events.join(""));
  const seed = Date.now() >>> 0;
  const next = seededRandom(seed);
  for (let run = 0; run < 200; run++) {
    const splitter = new EventSplitter();
    const parts: string[] = [];
    let ended = 0;
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + 1 + Math.floor(next() * (run % 40)));
      for (const event of splitter.push(bytes.slice(at, end))) {
        parts.push(text(event));
        ended += event.length;
      }
      expect(splitter.rest, `seed ${seed}`).toEqual(bytes.slice(ended, end));
      at = end;
    }
    expect(parts, `seed ${seed}`).toEqual(events);
  }
});

test("a stream begins with its first event and is done with [DONE]; an error event marks it as failed", () => {
  const states = (...events: string[]) => {
    const { hasBegun, hasFailed, isDone } = sent(1, ...events);
    return [hasBegun, hasFailed, isDone];
  };
  expect(states(sseComment("hb"))).toEqual([false, false, false]);
  expect(states(sseComment("hb"), chunk(0, "a"))).toEqual([true, false, false]);
  expect(states(chunk(0, "a", "stop"), usage, sseDone)).toEqual([true, false, true]);
  expect(states(chunk(0, "a"), failure)).toEqual([true, true, false]);
  expect(states(failure, sseDone)).toEqual([true, true, true]);
});

test("a whole stream is recognised by its end; any other leaves the bytes after its last event", () => {
  const whole = chunk(0, "a") + chunk(0, "b", "stop") + usage + sseDone;
  for (let length = 0; length <= whole.length; length++) {
    const all = new SentEvents(streamStart(1));
    const rest = text(all.addStream(utf8.encode(whole.slice(0, length))));
    const events = whole.slice(0, length).split("\n\n").slice(0, -1);
    expect(all.isDone).toBe(length === whole.length);
    expect(rest).toBe(all.isDone ? "" : whole.slice(events.join("\n\n").length + (events.length > 0 ? 2 : 0), length));
    if (!all.isDone) expect(all.cursor).toEqual(sent(1, ...events.map((event) => `${event}\n\n`)).cursor);
  }
});

/** [choice, text, whether the text is the choice's last] */
type Made = [number, string, boolean];
/** One event for each word. A word is a choice's number, a text, and a dot if the text is the choice's last. */
const madeOf = (all: string) =>
  all.split(" ").map((one): Made => [Number(one[0]), one.slice(1).replace(".", ""), one.endsWith(".")]);
const events = madeOf("0a 1b 0c 1. 0d.");
const written = ([choice, said, isDone]: Made) => chunk(choice, said, isDone ? "stop" : null);
/** The events of `made` that the client lacks. */
const lacking = (cursor: StreamCursor, made: Made[]) => {
  const repeated = new RepeatedEvents(JSON.parse(JSON.stringify(cursor)) as StreamCursor);
  return made.filter((event) => !repeated.skipIfSent(...event));
};

test("a recomputed stream continues after any event, even if its choices come in another order", () => {
  const otherOrder = [...events.filter(([choice]) => choice === 1), ...events.filter(([choice]) => choice === 0)];
  for (let count = 0; count <= events.length; count++) {
    const { cursor } = sent(2, ...events.slice(0, count).map(written));
    expect(lacking(cursor, events)).toEqual(events.slice(count));
    const rest = otherOrder.filter((event) => !events.slice(0, count).includes(event));
    expect(lacking(cursor, otherOrder)).toEqual(rest);
  }
});

test("a recomputed stream of a chat has the same texts as its chunks, and the usage once", () => {
  const { cursor } = sent(1, chatChunk(0, ""), chatChunk(0, "a"), chatChunk(0, undefined));
  const made = ["", "a", "", "b"].map((said): Made => [0, said, false]);
  expect(lacking(cursor, made)).toEqual([[0, "b", false]]);
  const ends = events.map(written);
  expect([sent(2, ...ends), sent(2, ...ends, usage)].map(({ cursor }) => cursor.isUsageSent)).toEqual([false, true]);
});

test.each([
  ["has another text", "0x 0c"],
  ["has the same text in another order", "0c 0a"],
  ["ends earlier", "0a 0."],
  ["ends later than what the client has whole", "1b 1b"],
])("a recomputed stream does not continue if it %s", (_, made) => {
  const { cursor } = sent(2, ...events.slice(0, 4).map(written));
  expect(() => lacking(cursor, madeOf(made))).toThrow(expect.objectContaining({ kind: "numerics_mismatch" }));
});
