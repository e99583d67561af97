/** A model that computes NaN at one position, as ONNX sessions and as a process: only sequences that reach it fail. */
import { expect, test } from "vitest";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { openDeviceRunner } from "../../gpu-backend/kv/device-runner.ts";
import type { Runner } from "../../gpu-backend/kv/runner.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { startBackend } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { openModelHarness } from "../support/model-harness.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyCentroids, tinyConfig, writeTinyModel } from "../support/tiny-model.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const seed = 7;
const brokenPosition = 40;
const neverEnds: [number, number][] = [[tinyConfig.stopIds[0], -100]];
const [whole, broken] = [temporaryFolder(), temporaryFolder()];
await writeTinyModel(whole, seed);
await writeTinyModel(broken, seed, { brokenPosition });

/** Runs all work on a model's engine, with one step after each submitted sequence. `runner` replaces the CPU's. */
async function finished(folder: string, format: WeightFormat, runner?: Runner) {
  const model = await openModelHarness(await readArtifacts(folder), { threads: 1, format });
  const harness = model.harness({ ...(runner && { runner }), limits: { maxSequences: 6 } });
  for (const { request, centroid } of work()) {
    await harness.engine.submit(centroid, [request]);
    await harness.engine.step();
  }
  await harness.finish();
  await model.stop();
  return harness;
}
const lastOf = (isLost: boolean) =>
  isLost ? { type: "error", kind: "generation_failed" } : { type: "done", finishReason: "length" };

/** Sequences that end before the broken position, and some that reach it, in the prompt or while decoding. */
function work(): { request: SequenceRequest; centroid: string | null; isLost: boolean }[] {
  const random = seededRandom(seed);
  const promptOf = (length: number) => Array.from({ length }, () => Math.floor(random() * 299));
  return Array.from({ length: 24 }, (_, i) => {
    const [promptTokens, maxTokens] = [
      [10, 20],
      [30, 30],
      [20, 19],
      [130, 5],
      [3, 30],
      [64, 5],
    ][i % 6];
    const sampling = { temperature: i % 2, seed: i, logprobs: 2, logit_bias: neverEnds };
    return {
      request: sequenceRequest(`s${i}`, promptOf(promptTokens), { maxTokens, sampling }),
      centroid: [...tinyCentroids, null][i % 5],
      // The last token is sampled but never fed to the model.
      isLost: promptTokens + maxTokens - 1 > brokenPosition,
    };
  });
}

test.each<WeightFormat>(["fp32", "int8"])("in %s other sequences get the bits of the whole model", async (format) => {
  const [expected, found] = [await finished(whole, format), await finished(broken, format)];
  for (const { engine } of [expected, found]) expect(engine.stats).toMatchObject({ running: 0, waiting: 0 });
  const all = work();
  for (const { request, isLost } of all) {
    const allTokens = expected.tokenFramesOf(request.id);
    const fed = Math.max(0, brokenPosition - request.promptIds.length + 1);
    expect(found.tokenFramesOf(request.id)).toEqual(isLost ? allTokens.slice(0, fed) : allTokens);
    expect(found.lastFrameOf(request.id)).toMatchObject(lastOf(isLost));
  }
  expect(all.filter(({ isLost }) => isLost).length).toBeGreaterThan(8);
});

test.skipIf(await webgpuFailure())("on WebGPU every other one is served", async () => {
  const { model, hyperNetwork } = await readArtifacts(broken);
  const built = { ...model, bank: bankOf(hyperNetwork), threads: 1 };
  const runner = await openDeviceRunner(built, { maxSequences: 6, kvBytes: 2 ** 26, threads: 1 });
  const harness = await finished(broken, "fp32", runner);
  await runner.release();
  for (const { request, isLost } of work()) expect(harness.lastFrameOf(request.id)).toMatchObject(lastOf(isLost));
});

test("a backend process ends such sequences, counts and logs them, and serves on", async () => {
  // Behind the prompt that a backend answers at its start.
  const late = temporaryFolder();
  await writeTinyModel(late, seed, { brokenPosition: 200 });
  const backend = stopAtEnd(await startBackend({ MODEL_DIR: late }));
  const sampling = { logit_bias: neverEnds };
  const frames = await backend.frames("c0", [
    sequenceRequest("long", [1, 2, 3], { maxTokens: 220, sampling }),
    sequenceRequest("mate", [4, 5], { maxTokens: 30, sampling }),
    sequenceRequest("prompt", Array(220).fill(9), { maxTokens: 5, sampling }),
  ]);
  const last = (id: string) => frames.findLast((frame) => frame.id === id);
  for (const id of ["long", "prompt"]) {
    expect(last(id)).toMatchObject({ type: "error", kind: "generation_failed", retryAfterSeconds: null });
  }
  expect(last("mate")).toMatchObject({ type: "done", completionTokens: 30 });
  const metrics = await (await fetch(`${backend.url}/metrics`)).text();
  expect(metrics).toContain('chameleon_sequences_total{outcome="generation_failed"} 2');
  expect(backend.log()).toMatch(/"event":"sequence_failed".*not a number/);
  expect((await fetch(`${backend.url}/readyz`)).status).toBe(200);
  const later = await backend.frames("c0", [sequenceRequest("again", [4, 5], { maxTokens: 30, sampling })]);
  expect(later.at(-1)).toMatchObject({ type: "done", completionTokens: 30 });
  expect(await backend.stop("SIGTERM")).toBe(0);
});

test("a base that fails in the middle of the start's prompt is refused", async () => {
  await expect(startBackend({ MODEL_DIR: broken })).rejects.toThrow(
    "exit 1: chameleon backend: the engine cannot generate",
  );
});
