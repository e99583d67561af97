import { expect, test } from "vitest";
import { HostRunner } from "../../../../gpu-backend/kv/host-runner.ts";
import { writeKey } from "../../../../gpu-backend/memory/keys.ts";
import { createEngineHarness, sequenceRequest, testLimits } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

const { hiddenSize: D } = fakeConfig;
/** The key of the fake runner's state at a position. */
function keyOf(id: number, position: number): Int8Array {
  const key = new Int8Array(D);
  writeKey(
    Float32Array.from({ length: D }, (_, e) => (e % 2 ? position + e / 16 : id)),
    key,
  );
  return key;
}

test("a prompt gives a key of a memory for each token, without a head, before its last frame, whatever runs beside it", async () => {
  const runner = createFakeRunner();
  const harness = createEngineHarness({ runner });
  const prompts = [200, 1, 64].map((length, i) => Array.from({ length }, (_, t) => (7 * t + i) % 90));
  const traced = new Map<string, Float32Array | Int8Array>();
  const requests = prompts.map((ids, i) => sequenceRequest(`t${i}`, ids, { maxTokens: 0 }));
  await harness.engine.submit(null, requests, {
    kind: "keys",
    take(id, values) {
      expect(harness.framesOf(id)).toEqual([]);
      traced.set(id, values);
    },
  });
  await harness.finish();
  for (const [i, ids] of prompts.entries()) {
    expect(traced.get(`t${i}`)).toEqual(Int8Array.from(ids.flatMap((id, t) => [...keyOf(id, t)])));
    expect(harness.lastFrameOf(`t${i}`)).toMatchObject({ type: "done", completionTokens: 0 });
  }
  expect(runner.steps.map(({ headRows }) => headRows)).toEqual(runner.steps.map(() => 0));

  const mixed = createEngineHarness({ runner: createFakeRunner() });
  await mixed.engine.submit(null, [sequenceRequest("mate", prompts[2])]);
  await mixed.engine.submit(null, [requests[0]], {
    kind: "keys",
    take: (_, values) => expect(values).toEqual(traced.get("t0")),
  });
  await mixed.finish();
  expect(mixed.tokensOf("mate")).toHaveLength(16);
});

test("a prompt whose states cannot be read ends in an error, and others are served", async () => {
  const runner = new HostRunner(createFakeRunner(), { ...testLimits, kvBytes: 2 ** 24 });
  runner.kv.states = async () => {
    throw new Error("the device is gone");
  };
  const harness = createEngineHarness({ runner });
  await harness.engine.submit(null, [sequenceRequest("mate", [1, 2, 3])]);
  const take = () => expect.unreachable();
  await harness.engine.submit(null, [sequenceRequest("keys", [4, 5], { maxTokens: 0 })], { kind: "keys", take });
  await harness.finish();
  expect(harness.lastFrameOf("keys")).toMatchObject({ type: "error", kind: "generation_failed" });
  expect(harness.lastFrameOf("mate")).toMatchObject({ type: "done" });
});
