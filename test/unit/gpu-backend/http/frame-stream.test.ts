import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { EngineClient } from "../../../../gpu-backend/host/client.ts";
import {
  type BatchOutcome,
  FrameGathering,
  frameStream,
  unreadFrameBytes,
} from "../../../../gpu-backend/http/frame-stream.ts";
import type { Frame } from "../../../../shared/contracts/inference.ts";
import { frameLine } from "../../../../shared/contracts/ndjson.ts";
import { batchRequest, doneFrame, sequenceRequest, tokenFrame } from "../../../support/frames.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const gatherMs = 25;
const batch = batchRequest([{ ...sequenceRequest("a"), gatherMs }]);

/** The body of the answer to `batch`. The test plays the engine: `say` in the result sends the engine's frames. */
function streamed() {
  let tell: (frames: Frame[]) => void = () => undefined;
  const cancelled: string[][] = [];
  const engine: Pick<EngineClient, "submit" | "cancel"> = {
    submit: (_, receive) => {
      tell = receive;
    },
    cancel: (ids) => {
      cancelled.push([...ids]);
      return [];
    },
  };
  const outcomes: BatchOutcome[] = [];
  const reader = frameStream(engine, batch, (outcome) => void outcomes.push(outcome)).getReader();
  const next = async () => new TextDecoder().decode((await reader.read()).value);
  return { reader, next, say: (...frames: Frame[]) => tell(frames), cancelled, outcomes };
}

test("writes tokens that travel together in one chunk, counts them as they come, and closes with the last", async () => {
  const { reader, next, say, outcomes } = streamed();
  const frames = [tokenFrame("a", 0, 65), tokenFrame("a", 1, 66), tokenFrame("a", 2, 67), doneFrame("a")];
  for (const frame of frames) say(frame);
  expect(await next()).toBe(frameLine(frames[0]));
  expect(await next()).toBe(frames.slice(1).map(frameLine).join(""));
  expect((await reader.read()).done).toBe(true);
  expect(outcomes).toEqual([{ tokens: 3, done: 1, failed: 0, clientGone: false }]);
  expect(vi.getTimerCount()).toBe(0);
});

test("a reader who leaves leaves no pending work behind", async () => {
  const { reader, say, cancelled } = streamed();
  say(tokenFrame("a", 0, 65));
  say(tokenFrame("a", 1, 66));
  await reader.cancel();
  expect(cancelled).toEqual([["a"]]);
  expect(vi.getTimerCount()).toBe(0);
});

test("a reader who falls too far behind loses what is open, and the engine is told; one who reads in time does not", async () => {
  const alternatives = Array.from({ length: 1000 }, (_, i): [number, number] => [i, -i]);
  const prompt = (): Frame => ({ type: "prompt", id: "a", logprobs: [null], alternatives: [alternatives] });
  const bytes = Buffer.byteLength(frameLine(prompt()));
  const fits = Math.floor(unreadFrameBytes / bytes);
  const quick = streamed();
  for (let i = 0; i < 2 * fits; i++) {
    quick.say(prompt());
    expect(await quick.next()).toBe(frameLine(prompt()));
  }
  expect(quick.cancelled).toEqual([]);
  await quick.reader.cancel();

  const slow = streamed();
  for (let i = 0; i < fits; i++) slow.say(prompt());
  expect(slow.cancelled).toEqual([]);
  slow.say(prompt());
  expect(slow.cancelled).toEqual([["a"]]);
  await expect(slow.reader.read()).rejects.toThrow(new RegExp(`${unreadFrameBytes}`));
  expect(vi.getTimerCount()).toBe(0);
  // The engine still ends its sequences with frames, which reach nobody.
  slow.say(tokenFrame("a", 0, 65), doneFrame("a"));
  expect(slow.outcomes).toEqual([{ tokens: 1, done: 1, failed: 0, clientGone: true }]);
});

/** Gathers frames of sequences whose tokens may wait for `waits` ms. In the result, `sent` lists what was sent at once, frame by frame. */
function gathering(waits: Record<string, number | undefined>) {
  const sent: string[][] = [];
  const sequences = Object.entries(waits).map(([id, wait]) => ({ ...sequenceRequest(id), gatherMs: wait }));
  const label = (frame: Frame) => `${frame.id} ${frame.type === "token" ? frame.index : frame.type}`;
  const one = new FrameGathering(sequences, (frames) => void sent.push(frames.map(label)));
  return { one, sent };
}

const token = (id: string, index: number) => tokenFrame(id, index, 65);

test("gathering sends each frame at once where nothing may wait", () => {
  const { one, sent } = gathering({ a: undefined });
  for (const frame of [token("a", 0), token("a", 1), doneFrame("a")]) one.push([frame]);
  expect(sent).toEqual([["a 0"], ["a 1"], ["a done"]]);
  expect(vi.getTimerCount()).toBe(0);
});

test("gathering sends a first token at once, those after it together when the first of them has waited, and the end at once", () => {
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

test("gathering sends waiting frames along with one that may not wait, and waits no longer than the shortest of their limits", () => {
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
