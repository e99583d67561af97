import { expect, test } from "vitest";
import {
  AnswerEnd,
  type AnswerEvent,
  type AnswerState,
  type EndReason,
  endReasons,
  nextState,
} from "../../../edge/answer/answer-end.ts";

const events: AnswerEvent[] = [...endReasons, "delivered", "broken off"];
const ended = (reason: EndReason): AnswerState => ({ phase: "ended", reason });
const closing = (reason: EndReason): AnswerState => ({ phase: "closing", reason });
const open: AnswerState = { phase: "open" };

/** The state after each event. */
const table: [AnswerState, Record<AnswerEvent, AnswerState>][] = [
  [
    open,
    {
      ...{ complete: closing("complete"), failed: closing("failed"), deadline: closing("deadline") },
      ...{ limit: closing("limit"), gone: ended("gone"), delivered: open, "broken off": open },
    },
  ],
  ...endReasons.map((reason): (typeof table)[number] => [
    closing(reason),
    {
      ...{ complete: closing(reason), failed: closing(reason), deadline: closing(reason) },
      ...{ limit: reason === "complete" ? closing("limit") : ended("limit"), gone: ended("gone") },
      ...{ delivered: ended(reason), "broken off": ended(reason) },
    },
  ]),
];

test.each(table)("every event in %j", (state, after) => {
  for (const [event, expected] of Object.entries(after)) {
    const next = nextState(state, event as AnswerEvent);
    expect([event, next]).toEqual([event, expected]);
    // An unchanged state must be the same object: callers see by this that nothing has changed.
    if (JSON.stringify(next) === JSON.stringify(state)) expect(next).toBe(state);
  }
});

test.each(endReasons)("nothing changes an answer that has ended: %s", (reason) => {
  const state = ended(reason);
  for (const event of events) expect(nextState(state, event)).toBe(state);
});

test("an answer is settled once and finished once, in that order, whatever comes in whatever order", () => {
  for (const sequence of events.flatMap((a) => events.flatMap((b) => events.map((c) => [a, b, c])))) {
    const calls: string[] = [];
    const end = new AnswerEnd({
      settled: (reason) => calls.push(`settled ${reason}`),
      finished: (reason) => calls.push(`finished ${reason}`),
    });
    for (const event of sequence) {
      const before = end.phase;
      const hasChanged = end.apply(event);
      expect(hasChanged || end.phase === before).toBe(true);
    }
    const expected = { open: [], closing: ["settled"], ended: ["settled", "finished"] }[end.phase];
    expect([sequence, calls.map((call) => call.split(" ")[0])]).toEqual([sequence, expected]);
    const first = sequence.find((event) => endReasons.some((reason) => reason === event));
    if (first) expect(calls[0]).toBe(`settled ${first}`);
  }
});
