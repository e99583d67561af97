/** The bench of the edge with regions: its delays, and what it judges. */
import { afterEach, expect, test, vi } from "vitest";
import { late } from "../../bench/edge/regions/regional-worker.ts";
import { addedMs, coldLines, type RegionRow, rowsOverBound } from "../../bench/edge/regions/report.ts";

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

test("the way to the nearest backend and what the edge takes at 0 ms do not count as added", () => {
  const base = { kind: "region", requests: 1, p50LowMs: 0, p50HighMs: 0, p99Ms: 0 } as const;
  const row = (system: string, roundTripMs: number, toBackendMs: number, p50Ms: number): RegionRow => ({
    ...{ ...base, system, region: "sam", roundTripMs, toBackendMs, p50Ms },
  });
  const rows = [
    row("this edge", 0, 0, 15),
    row("this edge", 50, 50, 75),
    row("this edge", 150, 150, 176),
    row("other edge", 0, 0, 10),
    row("other edge", 150, 150, 610),
  ];
  expect(rows.map((one) => addedMs(one, rows))).toEqual([0, 10, 11, 0, 450]);
  expect(rowsOverBound(rows, "this edge")).toEqual([rows[2]]);
});

test("regions whose first requests wait for the same share a line", () => {
  const row = (region: "sam" | "oc" | "weur", farCalls: string[]) =>
    ({ kind: "cold", system: "this edge", region, farCalls }) as const;
  expect(coldLines([row("sam", ["a", "b"]), row("weur", []), row("oc", ["a", "b"])])).toHaveLength(2);
});
