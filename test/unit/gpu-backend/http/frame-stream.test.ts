import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { EngineClient } from "../../../../gpu-backend/host/client.ts";
import { type BatchOutcome, frameStream, unreadFrameBytes } from "../../../../gpu-backend/http/frame-stream.ts";
import type { BatchRequest, Frame } from "../../../../shared/contracts/inference.ts";
import { frameLine } from "../../../../shared/contracts/ndjson.ts";
import { doneFrame, sequenceRequest, tokenFrame } from "../../../support/frames.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const gatherMs = 25;
const batch: BatchRequest = {
  version: 3,
  manifestHash: "a".repeat(64),
  centroidId: "c0",
  sequences: [{ ...sequenceRequest("a"), gatherMs }],
};

/** The body of `batch`, and the engine that makes it. */
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
