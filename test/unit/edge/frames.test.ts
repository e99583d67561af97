import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { RepeatedTimeout } from "../../../edge/dispatch/frames.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("says whether work settles within the limit, and of work that is late never later than that", async () => {
  const limitMs = 500;
  // Waits begin anywhere between two ticks.
  for (let startMs = 0; startMs <= 200; startMs += 10) {
    const timeout = new RepeatedTimeout(limitMs);
    expect(await timeout.settles(Promise.resolve())).toBe(true);
    await vi.advanceTimersByTimeAsync(startMs);
    let settled: boolean | null = null;
    void timeout.settles(new Promise(() => {})).then((inTime) => {
      settled = inTime;
    });
    await vi.advanceTimersByTimeAsync(0.8 * limitMs - 1);
    expect(settled).toBe(null);
    await vi.advanceTimersByTimeAsync(0.2 * limitMs + 1);
    expect(settled).toBe(false);
    timeout.stop();
  }
  expect(vi.getTimerCount()).toBe(0);
});

test("has one timer for many waits, and each begins anew", async () => {
  const timeout = new RepeatedTimeout(500);
  for (let i = 0; i < 50; i++) {
    const work = Promise.withResolvers<void>();
    const settled = timeout.settles(work.promise);
    await vi.advanceTimersByTimeAsync(390);
    expect(vi.getTimerCount()).toBe(1);
    work.resolve();
    expect(await settled).toBe(true);
  }
  timeout.stop();
  expect(vi.getTimerCount()).toBe(0);
});

test("rejects as the work does", async () => {
  const timeout = new RepeatedTimeout(500);
  await expect(timeout.settles(Promise.reject(new Error("broken")))).rejects.toThrow("broken");
  timeout.stop();
});
