import { expect, test } from "vitest";
import { runInThread } from "../../../../../gpu-backend/models/import/killable-thread.ts";

const script = (code: string) => new URL(`data:text/javascript,${encodeURIComponent(code)}`);
const limits = { seconds: 60, megabytes: 64 };
const port = `import { parentPort, workerData } from "node:worker_threads"; `;

test("hands back what the thread posts", async () => {
  const echo = script(`${port} parentPort.postMessage(workerData)`);
  expect(await runInThread(echo, { a: [1] }, limits)).toEqual({ a: [1] });
});

test("ends a thread that does not end, and names the limit", async () => {
  await expect(runInThread(script("for (;;);"), null, { ...limits, seconds: 0.2 })).rejects.toThrow("more than 0.2 s");
});

test("ends a thread that takes too much memory, and names the limit", async () => {
  const hoarding = script("const kept = []; for (;;) kept.push(new Array(1e5).fill(kept.length + 0.5));");
  await expect(runInThread(hoarding, null, limits)).rejects.toThrow("more than 64 MB");
});

test("a thread that fails, or says nothing, is an error", async () => {
  await expect(runInThread(script("throw new Error('broken')"), null, limits)).rejects.toThrow("broken");
  await expect(runInThread(script(""), null, limits)).rejects.toThrow("ended with 0");
});
