/** A fitter process that hangs, dies or is idle, played by a script: callers learn of a fault in bounded time. */
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { FitClient, idleMs } from "../../gpu-backend/host/own-adapters/fit-client.ts";
import { isRunning } from "../support/backend-process.ts";

const script = new URL("../support/scripted-fitter.ts", import.meta.url);
const request = { examples: [], validation: null };
const { signal } = new AbortController();
/** Closes a client and checks that its process has ended. */
const close = async (client: FitClient) => {
  const { pid } = client;
  await client.close();
  if (pid !== null) expect(isRunning(pid)).toBe(false);
};
const environment = { LC_ALL: "C" };
const fitter = (then: string, fitMs?: number) => {
  const folders = { modelDirectory: "", artifactsDirectory: "", then };
  const client = new FitClient(folders, { script, fitMs, environment });
  onTestFinished(async () => {
    vi.useRealTimers();
    await close(client);
  });
  return client;
};

describe("a fitter that hangs", () => {
  test.each(["wait", "throw"])("(%s) fails whoever waits, in time; the next one starts it anew", async (then) => {
    const client = fitter(then, 300);
    for (let i = 0; i < 2; i++) {
      const results = await Promise.allSettled([client.fit(request, signal), client.fit(request, signal)]);
      expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
      for (const result of results) expect(result).toMatchObject({ reason: { kind: "backend_unavailable" } });
    }
    await close(client);
  });

  test("is closed in time, and whoever waits hears that the backend ends", async () => {
    const client = fitter("wait");
    const refusal = expect(client.fit(request, signal)).rejects.toMatchObject({ kind: "backend_unavailable" });
    await close(client);
    await refusal;
  });
});

test("a fitter's process gets the environment that it was given, and no other", async () => {
  const seen = await fitter("environment").fit(request, signal);
  expect(seen).toMatchObject(environment);
  expect(seen).not.toHaveProperty("PATH");
});

describe("an idle fitter", () => {
  const fakeTimers = () => vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });

  test("stays while fits come, and ends after a minute; the next fit starts another", async () => {
    fakeTimers();
    const client = fitter("answer");
    const first = Number(await client.fit(request, signal));
    for (let i = 0; i < 2; i++) {
      vi.advanceTimersByTime(idleMs - 1);
      expect(await client.fit(request, signal)).toBe(first);
    }
    vi.advanceTimersByTime(idleMs);
    expect(client.pid).toBeNull();
    vi.useRealTimers();
    await expect.poll(() => isRunning(first)).toBe(false);
    expect(await client.fit(request, signal)).not.toBe(first);
  });
});
