/** Full adapters, the paper's kind, on real ONNX sessions and in a real process: more centroids than pool slots, and none of it may show. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { generatedAdapters, servedBank, servedPool } from "../../gpu-backend/adapters/generated.ts";
import { type Artifacts, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import { allFrames, startBackend } from "../support/backend-process.ts";
import { createEngineHarness, type EngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { oracleHidden, oracleLogits, oracleLogSumExp } from "../support/gpt2-oracle.ts";
import { seededRandom } from "../support/steps.ts";
import { tinyConfig, writeTinyModel } from "../support/tiny-model.ts";

const seed = 4316;
/** Logprobs come from float32 logits of a few units, the oracle's from float64. */
const tolerance = 2e-4;
const random = seededRandom(seed);
const centroids = 7;
const broken = "c4";
const off = "c6";
const slots = 3;

let folder: string;
let artifacts: Artifacts;
let runner: StepRunner;

beforeAll(async () => {
  console.log(`seed ${seed}, tolerance ${tolerance}, ${centroids} centroids in ${slots} slots`);
  folder = await mkdtemp(join(tmpdir(), "full-adapters-"));
  await writeTinyModel(folder, seed, { kind: "full", centroids, brokenCentroid: 4 });
  artifacts = await readArtifacts(folder);
  const { manifest, hyperNetwork, model } = artifacts;
  const bank = servedBank(manifest, hyperNetwork);
  runner = await createStepRunner({ ...model, bank, pool: servedPool(manifest, slots), threads: 2 });
});
afterAll(async () => {
  await runner.release();
  await rm(folder, { recursive: true });
});

const source = () => generatedAdapters(artifacts.manifest, artifacts.hyperNetwork, setImmediate);
const harness = (cacheBytes?: number): EngineHarness =>
  createEngineHarness({ runner, source: source(), pieceOf: (id) => artifacts.tokenizer.pieceOf(id), cacheBytes });
const randomPrompt = (length: number) => Array.from({ length }, () => Math.floor(random() * 299));
const neverEnds: [number, number][] = [[tinyConfig.endOfTextId, -100]];

/** 33 sequences of five centroids with adapters, one that is off, and the base. */
const work = () =>
  Array.from({ length: 33 }, (_, i) => ({
    centroid: ["c0", "c1", "c2", "c3", "c5", off, null][i % 7],
    request: sequenceRequest(`s${i}`, randomPrompt([3, 64, 65, 1, 30][i % 5]), {
      maxTokens: 10 + (i % 4) * 10,
      compare: i % 3 === 0,
      sampling: { temperature: i % 2, top_p: 0.9, seed: i, logit_bias: neverEnds, logprobs: 1 },
    }),
  }));

test("a completion is the same alone and among 32 mates of more centroids than slots, bit for bit", async () => {
  const all = work();
  const together = harness();
  for (const { centroid, request } of all) await together.engine.submit(centroid, [request]);
  await together.finish();
  const staggered = harness(0);
  for (const [i, { centroid, request }] of all.entries()) {
    await staggered.engine.submit(centroid, [request]);
    for (let s = 0; s < 1 + (i % 3); s++) await staggered.engine.step();
  }
  await staggered.finish();
  const texts = new Set<string>();
  for (const { centroid, request } of all) {
    const alone = harness();
    await alone.engine.submit(centroid, [request]);
    await alone.finish();
    expect(alone.tokensOf(request.id).length).toBe(request.maxTokens);
    expect(together.tokenFramesOf(request.id)).toEqual(alone.tokenFramesOf(request.id));
    expect(staggered.tokenFramesOf(request.id)).toEqual(alone.tokenFramesOf(request.id));
    texts.add(alone.tokensOf(request.id).join());
  }
  for (const { engine } of [together, staggered]) {
    expect(engine.stats).toMatchObject({ running: 0, waiting: 0, pool: { slots, resident: slots, pinned: 0 } });
    expect(engine.stats.pool!.evictions).toBeGreaterThan(0);
  }
  // Nothing may stay in a cache of no bytes: whoever came back was generated again.
  const { entries, generated } = staggered.engine.stats.adapters;
  console.log(`${texts.size} different completions of ${all.length}; without cache ${generated} generations`);
  expect(entries).toBe(0);
  expect(generated).toBeGreaterThan(centroids - 1);
  expect(together.engine.stats.adapters.generated).toBe(centroids - 1);
  expect(texts.size).toBeGreaterThan(25);
});

test("logprobs are the oracle's of the generated pair; the base's where the adapter is off", async () => {
  const target = harness();
  const ids = randomPrompt(40);
  const sampling = { logprobs: 4, logit_bias: neverEnds };
  const wearing: [string | null, string][] = [
    ["c1", "adapted"],
    [off, "off"],
    [null, "base"],
  ];
  for (const [centroid, id] of wearing) {
    await target.engine.submit(centroid, [sequenceRequest(id, ids, { maxTokens: 1, compare: true, sampling })]);
  }
  await target.finish();
  const { directions } = await source().generate("c1");
  const { model } = artifacts;
  const hidden = oracleHidden(model.config, model.weights, ids).at(-1)!;
  const { rank, a, b } = directions!;
  const own = { gates: rank, a, a0: new Float32Array(rank), b };
  const logprobsAt = (gate: number) => {
    const logits = oracleLogits(model.config, model.weights, hidden, own, new Float32Array(rank).fill(gate));
    logits[tinyConfig.endOfTextId] -= 100;
    const total = oracleLogSumExp(logits);
    return logits.map((logit) => logit - total);
  };
  const [adapted, base] = [logprobsAt(1), logprobsAt(0)];
  const [frame] = target.tokenFramesOf("adapted");
  const differences = [
    frame.logprob! - adapted[frame.tokenId],
    frame.baseLogprob! - base[frame.tokenId],
    ...frame.alternatives!.map(([id, logprob]) => logprob - adapted[id]),
  ].map(Math.abs);
  console.log(`max |engine − oracle| ${Math.max(...differences).toExponential(2)}`);
  expect(Math.max(...differences)).toBeLessThan(tolerance);
  expect(Math.abs(adapted[frame.tokenId] - base[frame.tokenId])).toBeGreaterThan(0.1);
  expect(target.tokenFramesOf("off")[0].alternatives).toEqual(target.tokenFramesOf("base")[0].alternatives);
});

test("a centroid that is not a number fails by name; its mates go on", async () => {
  const target = harness();
  const [lonely, ...mates] = work().slice(0, 4);
  const running = Promise.all(mates.map(({ centroid, request }) => target.engine.submit(centroid, [request])));
  for (let i = 0; i < 2; i++) {
    await target.engine.submit(broken, [{ ...lonely.request, id: `broken${i}` }]);
    expect(target.framesOf(`broken${i}`)).toMatchObject([
      { type: "error", kind: "generation_failed", message: expect.stringMatching(/Centroid c4.*NaN/) },
    ]);
  }
  await running;
  await target.finish();
  for (const { request } of mates) expect(target.tokensOf(request.id).length).toBe(request.maxTokens);
  expect(target.engine.stats.pool!.pinned).toBe(0);
});

test("the backend serves them over HTTP: all centroids at once through two slots, the broken one refused, all counted", async () => {
  const backend = await startBackend({ MODEL_DIR: folder, ADAPTER_SLOTS: "2" });
  try {
    const sampling = { logit_bias: neverEnds };
    const last = await Promise.all(
      Array.from({ length: centroids }, async (_, k) => {
        const sequence = sequenceRequest(`s${k}`, randomPrompt(9), { maxTokens: 6, sampling });
        const frames = await allFrames(await backend.post("/v1/batches", backend.batch(`c${k}`, [sequence])));
        return frames.at(-1);
      }),
    );
    last.forEach((frame, k) => {
      if (`c${k}` === broken) expect(frame).toMatchObject({ type: "error", message: expect.stringMatching(/c4.*NaN/) });
      else expect(frame).toMatchObject({ type: "done", completionTokens: 6, adapter: { cache: "generated" } });
    });
    const metric = (name: string) => backend.metric(`chameleon_adapter_${name}`);
    expect([await metric("pool_slots"), await metric("pool_resident"), await metric("pool_pinned")]).toEqual([2, 2, 0]);
    // Five with directions of their own came through two slots.
    expect(await metric("pool_evictions_total")).toBe(3);
    expect(await metric("cache_generated_total")).toBe(centroids);
    expect(await metric("generation_seconds_total")).toBeGreaterThan(0);
    expect((await fetch(`${backend.url}/readyz`)).status).toBe(200);
  } finally {
    backend.child.kill("SIGTERM");
    await backend.exited;
  }
});
