/** Threads that hang or die, in place of the engine's: whoever waits for them hears of it in bounded time. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { EngineClient, stallMs } from "../../gpu-backend/engine/client.ts";
import type { EngineSettings } from "../../gpu-backend/engine/messages.ts";
import type { BatchRequest, Frame } from "../../shared/contracts/inference.ts";
import { sequenceRequest } from "../support/engine-harness.ts";

const thread = new URL("../support/scripted-thread.ts", import.meta.url);
const batch = (id: string): BatchRequest => ({
  version: 1,
  manifestHash: "a".repeat(64),
  centroidId: null,
  sequences: [sequenceRequest(id, [1])],
});
let nowMs = 0;
const closing: { close(limitMs: number): Promise<boolean> }[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const one of closing.splice(0)) await one.close(0);
});

async function engine(then: string) {
  const steps = { count: 0 };
  const observer = {
    phaseRan: () => void steps.count++,
    statsChanged: () => {},
    tokenArrived: () => {},
    sequenceEnded: () => {},
    sequenceFaulted: () => {},
  };
  const client = new EngineClient({ then, isEngine: true } as unknown as EngineSettings, {
    observer,
    now: () => nowMs,
    thread,
  });
  closing.push(client);
  await client.ready;
  const frames: Frame[] = [];
  return { client, steps, frames, submit: (id: string) => client.submit(batch(id), (some) => frames.push(...some)) };
}

describe("an engine that hangs", () => {
  test("is stalled from its last step on, while a sequence is open; then it takes nothing more", async () => {
    const { client, submit } = await engine("wait");
    nowMs += 10 * stallMs;
    expect(client.stalledMs).toBe(0);
    submit("a");
    nowMs += stallMs - 1;
    expect(client.stalledMs).toBe(stallMs - 1);
    // Another one that comes does not make it look alive.
    submit("b");
    expect(client.requireServing().manifestHash).toBe("a".repeat(64));
    nowMs += 1;
    for (const call of [() => client.requireServing(), () => submit("c")]) {
      expect(call).toThrow(expect.objectContaining({ kind: "backend_unavailable", retryAfterSeconds: 1 }));
      expect(call).toThrow(/30 s.*30 s/);
    }
    await expect(client.hiddenStates([sequenceRequest("d", [1])])).rejects.toThrow(/no step/);
  });

  test("that finishes a step is not", async () => {
    const { client, submit, steps } = await engine("answer");
    submit("a");
    nowMs += stallMs - 1;
    await vi.waitFor(() => expect(steps.count).toBe(1));
    expect(client.stalledMs).toBe(0);
    nowMs += stallMs - 1;
    expect(client.requireServing().manifestHash).toBe("a".repeat(64));
    expect(client.openSequences).toBe(1);
  });

  test("closes: what is open ends in an error that says to come back, and the thread is ended", async () => {
    const { client, submit, frames } = await engine("wait");
    submit("a");
    expect(await client.close(10)).toBe(true);
    expect(frames).toMatchObject([{ type: "error", id: "a", kind: "backend_unavailable", retryAfterSeconds: 1 }]);
    expect(() => client.requireServing()).toThrow(/shutting down/);
  });

  test("in native code cannot be ended, and closing says so", async () => {
    const { client, submit, frames } = await engine("block");
    submit("a");
    expect(await client.close(10)).toBe(false);
    expect(frames).toMatchObject([{ type: "error", id: "a", kind: "backend_unavailable" }]);
  }, 20_000);

  test("keeps nobody waiting for hidden states", async () => {
    const { client } = await engine("wait");
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const states = client.hiddenStates([sequenceRequest("a", [1])]);
    const refusal = expect(states).rejects.toMatchObject({ kind: "backend_unavailable", retryAfterSeconds: 1 });
    await vi.advanceTimersByTimeAsync(110_000);
    await refusal;
    expect(vi.getTimerCount()).toBe(0);
  });
});

test("an engine that dies fails every open sequence, so that each can go on elsewhere, and tells why", async () => {
  const { client, submit, frames } = await engine("throw");
  submit("a");
  expect(await client.ended).toMatchObject({ message: "the step failed" });
  expect(frames).toMatchObject([{ type: "error", id: "a", kind: "backend_unavailable", retryAfterSeconds: 1 }]);
  expect(() => submit("b")).toThrow(/has failed/);
});
