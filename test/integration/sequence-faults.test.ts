/** A model that computes NaN at one position, as ONNX sessions and as a process: only sequences that reach it fail. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { generatedAdapters } from "../../gpu-backend/adapters/generated/generated.ts";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { openDeviceRunner } from "../../gpu-backend/kv/device-runner.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { allFrames, startBackend } from "../support/backend-process.ts";
import { createEngineHarness, type EngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { seededRandom } from "../support/steps.ts";
import { tinyCentroids, tinyConfig, writeTinyModel } from "../support/tiny-model.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const seed = 7;
const brokenPosition = 40;
const neverEnds: [number, number][] = [[tinyConfig.stopIds[0], -100]];
let whole: string;
let broken: string;
beforeAll(async () => {
  [whole, broken] = await Promise.all(["whole-", "broken-"].map((name) => mkdtemp(join(tmpdir(), name))));
  await writeTinyModel(whole, seed);
  await writeTinyModel(broken, seed, { brokenPosition });
});
afterAll(() => Promise.all([whole, broken].map((folder) => rm(folder, { recursive: true }))));

async function withEngine<T>(
  folder: string,
  format: WeightFormat | "webgpu",
  use: (harness: EngineHarness) => Promise<T>,
) {
  const { model, manifest, hyperNetwork, tokenizer } = await readArtifacts(folder);
  const built = { ...model, bank: bankOf(hyperNetwork), threads: 1 };
  const runner =
    format === "webgpu"
      ? await openDeviceRunner(built, { maxSequences: 6, kvBytes: 2 ** 26, threads: 1 })
      : await createStepRunner({ ...built, format });
  const source = generatedAdapters(manifest, hyperNetwork);
  const textPieceOf = (id: number) => tokenizer.textPieceOf(id);
  const harness = createEngineHarness({ runner, source, textPieceOf, limits: { maxSequences: 6 } });
  try {
    return await use(harness);
  } finally {
    await runner.release();
  }
}

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

describe.each<WeightFormat>(["fp32", "int8"])("in %s", (format) => {
  test("the others' tokens and logprobs are bit for bit those of the model that is whole", async () => {
    const all = work();
    const frames = (folder: string) =>
      withEngine(folder, format, async (harness) => {
        for (const { request, centroid } of all) {
          await harness.engine.submit(centroid, [request]);
          await harness.engine.step();
        }
        await harness.finish();
        expect(harness.engine.stats).toMatchObject({ running: 0, waiting: 0 });
        return new Map(all.map(({ request: { id } }) => [id, harness.framesOf(id)]));
      });
    const [expected, found] = [await frames(whole), await frames(broken)];
    for (const { request, isLost } of all) {
      const tokens = found.get(request.id)!.filter(({ type }) => type === "token");
      const allTokens = expected.get(request.id)!.filter(({ type }) => type === "token");
      const fed = Math.max(0, brokenPosition - request.promptIds.length + 1);
      expect(tokens).toEqual(isLost ? allTokens.slice(0, fed) : allTokens);
      const last = isLost ? { type: "error", kind: "generation_failed" } : { type: "done", finishReason: "length" };
      expect(found.get(request.id)!.at(-1)).toMatchObject(last);
    }
    expect(all.filter(({ isLost }) => isLost).length).toBeGreaterThan(8);
  });
});

test.skipIf(await webgpuFailure())("on WebGPU every other one is served", async () => {
  const all = work();
  await withEngine(broken, "webgpu", async (harness) => {
    for (const { request, centroid } of all) {
      await harness.engine.submit(centroid, [request]);
      await harness.engine.step();
    }
    await harness.finish();
    for (const { request, isLost } of all) {
      const last = isLost ? { type: "error", kind: "generation_failed" } : { type: "done", finishReason: "length" };
      expect(harness.lastFrameOf(request.id)).toMatchObject(last);
    }
  });
});

test("a backend process ends such sequences, counts and logs them, and serves on", async () => {
  const backend = await startBackend({ MODEL_DIR: broken });
  try {
    const sampling = { logit_bias: neverEnds };
    const requests = [
      sequenceRequest("long", [1, 2, 3], { maxTokens: 100, sampling }),
      sequenceRequest("mate", [4, 5], { maxTokens: 30, sampling }),
      sequenceRequest("prompt", Array(60).fill(9), { maxTokens: 5, sampling }),
    ];
    const frames = await allFrames(await backend.post("/v1/batches", backend.batch("c0", requests)));
    const lastOf = (id: string) => frames.findLast((frame) => frame.id === id);
    for (const id of ["long", "prompt"]) {
      expect(lastOf(id)).toMatchObject({ type: "error", kind: "generation_failed", retryAfterSeconds: null });
    }
    expect(lastOf("mate")).toMatchObject({ type: "done", completionTokens: 30 });
    const metrics = await (await fetch(`${backend.url}/metrics`)).text();
    expect(metrics).toContain('chameleon_sequences_total{outcome="generation_failed"} 2');
    expect(backend.log()).toMatch(/"event":"sequence_failed".*not a number/);
    expect((await fetch(`${backend.url}/readyz`)).status).toBe(200);
    const again = [sequenceRequest("again", [4, 5], { maxTokens: 30, sampling })];
    const later = await allFrames(await backend.post("/v1/batches", backend.batch("c0", again)));
    expect(later.at(-1)).toMatchObject({ type: "done", completionTokens: 30 });
  } finally {
    backend.child.kill("SIGTERM");
    expect(await backend.exited).toBe(0);
  }
});
