/** A thread that hangs or dies in place of the fitter's: whoever waits for it hears of it in bounded time. */
import { describe, expect, onTestFinished, test } from "vitest";
import { FitClient } from "../../gpu-backend/engine/instant/fit-client.ts";

const thread = new URL("../support/scripted-fitter.ts", import.meta.url);

describe("a fitter that hangs", () => {
  const request = { centroid: new Float32Array(1), examples: [], withDirections: false };
  const fitter = (then: string) => {
    const folders = { modelDirectory: "", artifactsDirectory: "", then };
    const client = new FitClient(folders, { thread, fitMs: 300 });
    onTestFinished(() => void client.close());
    return client;
  };

  test.each(["wait", "throw"])("(%s) fails whoever waits, in time; the next one starts it anew", async (then) => {
    const client = fitter(then);
    for (let i = 0; i < 2; i++) {
      const results = await Promise.allSettled([client.fit(request), client.fit(request)]);
      expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
      const kind = then === "wait" ? { kind: "backend_unavailable" } : {};
      for (const result of results) expect(result).toMatchObject({ reason: { message: expect.any(String), ...kind } });
    }
    expect(await client.close()).toBe(true);
  });

  test("is closed in time, and whoever waits hears that the backend ends", async () => {
    const client = fitter("wait");
    const fit = client.fit(request);
    const refusal = expect(fit).rejects.toMatchObject({ kind: "backend_unavailable" });
    expect(await client.close()).toBe(true);
    await refusal;
  });
});
