import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { FitClient, idleMs } from "../../../../../gpu-backend/engine/instant/fit-client.ts";

/** Answers each request with the number of the thread that it runs in. */
const thread = new URL(
  `data:text/javascript,import { parentPort, threadId } from "node:worker_threads";
  parentPort.on("message", () => parentPort.postMessage({ ok: true, result: threadId }));`,
);
const request = { centroid: new Float32Array(1), examples: [], withDirections: false };
const open = () => new FitClient({ modelDirectory: "", artifactsDirectory: "" }, { thread });

beforeEach(() => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] }));
afterEach(() => void vi.useRealTimers());

test("the thread stays while fits come, and ends after an idle minute; the next fit starts another", async () => {
  const client = open();
  const first = await client.fit(request);
  vi.advanceTimersByTime(idleMs - 1);
  expect(await client.fit(request)).toBe(first);
  vi.advanceTimersByTime(idleMs - 1);
  expect(await client.fit(request)).toBe(first);
  vi.advanceTimersByTime(idleMs);
  expect(await client.fit(request)).not.toBe(first);
  vi.useRealTimers();
  expect(await client.close()).toBe(true);
});

test("an idle thread ends without failing a fit that comes at that moment", async () => {
  const client = open();
  await client.fit(request);
  vi.advanceTimersByTime(idleMs);
  const results = await Promise.all([client.fit(request), client.fit(request)]);
  expect(results[0]).toBe(results[1]);
  vi.useRealTimers();
  expect(await client.close()).toBe(true);
});
