import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { FrameGathering } from "../../../../gpu-backend/http/frame-stream.ts";
import type { Frame } from "../../../../shared/contracts/inference.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../../support/frames.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const gatherMs = 25;

/** `waits`: milliseconds that each sequence's tokens may wait. `sent`: what was sent each time, as `id index`. */
function gathering(waits: Record<string, number | undefined>) {
  const sent: string[][] = [];
  const sequences = Object.entries(waits).map(([id, wait]) => ({
    ...sequenceRequest(id),
    ...(wait !== undefined && { gatherMs: wait }),
  }));
  const label = (frame: Frame) => `${frame.id} ${frame.type === "token" ? frame.index : frame.type}`;
  const one = new FrameGathering(sequences, (frames) => void sent.push(frames.map(label)));
  return { one, sent };
}

const token = (id: string, index: number) => tokenFrame(id, index, 65);

test("sends each frame at once where nothing may wait", () => {
  const { one, sent } = gathering({ a: undefined });
  one.push([token("a", 0)]);
  one.push([token("a", 1)]);
  one.push([doneFrame("a")]);
  expect(sent).toEqual([["a 0"], ["a 1"], ["a done"]]);
  expect(vi.getTimerCount()).toBe(0);
});

test("sends a first token at once, those after it together when the first of them has waited, and the end at once", () => {
  const { one, sent } = gathering({ a: gatherMs });
  one.push([token("a", 0)]);
  one.push([token("a", 1)]);
  vi.advanceTimersByTime(gatherMs - 1);
  one.push([token("a", 2)]);
  expect(sent).toEqual([["a 0"]]);
  vi.advanceTimersByTime(1);
  expect(sent).toEqual([["a 0"], ["a 1", "a 2"]]);
  one.push([token("a", 3)]);
  one.push([doneFrame("a")]);
  expect(sent.slice(2)).toEqual([["a 3", "a done"]]);
  expect(vi.getTimerCount()).toBe(0);
});

test("sends waiting frames along with one that may not wait, and waits no longer than the shortest of their limits", () => {
  const { one, sent } = gathering({ quick: gatherMs, slow: 10 * gatherMs });
  one.push([token("slow", 0), token("quick", 0)]);
  one.push([token("slow", 1)]);
  one.push([token("quick", 1)]);
  vi.advanceTimersByTime(gatherMs);
  expect(sent.slice(1)).toEqual([["slow 1", "quick 1"]]);
  one.push([token("slow", 2)]);
  one.push([doneFrame("quick")]);
  expect(sent.slice(2)).toEqual([["slow 2", "quick done"]]);
  one.push([token("slow", 3)]);
  vi.advanceTimersByTime(10 * gatherMs);
  expect(sent.slice(3)).toEqual([["slow 3"]]);
});
