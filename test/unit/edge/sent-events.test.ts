import { expect, test } from "vitest";
import { RepeatedEvents, SentEvents, type StreamCursor, streamStart } from "../../../edge/answer/sent-events.ts";
import { sseEvent } from "../../../shared/contracts/sse.ts";

const utf8 = new TextEncoder();
const chunk = (index: number, said: string, finish_reason: string | null = null) =>
  sseEvent(JSON.stringify({ choices: [{ index, text: said, finish_reason }] }));
const chatChunk = (index: number, content: string | undefined) =>
  sseEvent(JSON.stringify({ choices: [{ index, delta: { content }, finish_reason: null }] }));
const usage = sseEvent(JSON.stringify({ choices: [], usage: {} }));

function sent(choices: number, ...events: string[]): SentEvents {
  const all = new SentEvents(streamStart(choices));
  for (const event of events) all.add(utf8.encode(event));
  return all;
}

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
