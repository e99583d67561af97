import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { frameGroupsOf } from "../../../edge/dispatch/frames.ts";
import { frameLine } from "../../../shared/contracts/ndjson.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const limitMs = 500;
const token = (index: number) => ({ type: "token", id: "a", index, tokenId: 1 }) as const;

function stream() {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  let cancelled = false;
  const body = new ReadableStream<Uint8Array>({
    start: (started) => {
      controller = started;
    },
    cancel: () => {
      cancelled = true;
    },
  });
  const send = (text: string) => controller.enqueue(new TextEncoder().encode(text));
  return { groups: frameGroupsOf(body, limitMs), send, controller, isCancelled: () => cancelled };
}

test("a stream that falls silent fails within the limit and not before 4/5 of it, whenever the silence begins", async () => {
  for (let startMs = 0; startMs <= 200; startMs += 10) {
    const { groups, send, isCancelled } = stream();
    send(frameLine(token(0)));
    expect((await groups.next()).value).toEqual([token(0)]);
    // Time that the caller takes between two frames is no silence of the stream.
    await vi.advanceTimersByTimeAsync(10 * limitMs + startMs);
    let failure: unknown = null;
    groups.next().catch((error) => {
      failure = error;
    });
    await vi.advanceTimersByTimeAsync(0.8 * limitMs - 1);
    expect(failure).toBeNull();
    await vi.advanceTimersByTimeAsync(0.2 * limitMs + 1);
    expect(failure).toMatchObject({ kind: "silent" });
    expect(isCancelled()).toBe(true);
  }
  expect(vi.getTimerCount()).toBe(0);
});

test("heartbeats keep a stream alive, on one timer", async () => {
  const { groups, send, controller } = stream();
  const next = groups.next();
  for (let i = 0; i < 50; i++) {
    await vi.advanceTimersByTimeAsync(390);
    expect(vi.getTimerCount()).toBe(1);
    send("\n");
  }
  send(frameLine(token(0)));
  expect((await next).value).toEqual([token(0)]);
  controller.close();
  expect((await groups.next()).done).toBe(true);
  expect(vi.getTimerCount()).toBe(0);
});

test("a stream that breaks fails as broken", async () => {
  const { groups, controller } = stream();
  controller.error(new Error("reset"));
  await expect(groups.next()).rejects.toMatchObject({ kind: "broken" });
  expect(vi.getTimerCount()).toBe(0);
});
