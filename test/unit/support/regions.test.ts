/** Round trips between regions, as tests of the edge delay bodies by them. */
import { afterEach, expect, test, vi } from "vitest";
import { late } from "../../support/regions/regional-worker.ts";

afterEach(() => {
  vi.useRealTimers();
});

test("a delayed body has latency, not a lower throughput", async () => {
  vi.useFakeTimers();
  const startMs = Date.now();
  const source = new ReadableStream<Uint8Array>({
    async start(controller) {
      for (const byte of [1, 2, 3]) {
        controller.enqueue(Uint8Array.of(byte));
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      controller.close();
    },
  });
  const arrived: [number, number][] = [];
  const reading = (async () => {
    for await (const [byte] of late(source, 100)) arrived.push([byte, Date.now() - startMs]);
    arrived.push([0, Date.now() - startMs]);
  })();
  await vi.advanceTimersByTimeAsync(200);
  await reading;
  expect(arrived).toEqual([
    [1, 100],
    [2, 110],
    [3, 120],
    [0, 130],
  ]);
});

test("a delayed body fails late, after what came before, and passes a cancellation on", async () => {
  vi.useFakeTimers();
  const failing = new ReadableStream<Uint8Array>({
    async start(controller) {
      controller.enqueue(Uint8Array.of(1));
      await new Promise((resolve) => setTimeout(resolve, 10));
      controller.error(new Error("lost"));
    },
  });
  const reader = late(failing, 100).getReader();
  const first = reader.read();
  await vi.advanceTimersByTimeAsync(100);
  expect((await first).value).toEqual(Uint8Array.of(1));
  const second = expect(reader.read()).rejects.toThrow("lost");
  await vi.advanceTimersByTimeAsync(10);
  await second;

  const cancel = vi.fn();
  await late(new ReadableStream({ cancel }), 100).cancel("gone");
  expect(cancel).toHaveBeenCalledWith("gone");
});
