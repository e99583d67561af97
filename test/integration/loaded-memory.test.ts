/** Loading a model leaves none of its file, matrices or graph in the process, because ONNX Runtime has copied them. */
import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import { artifactsOf } from "../../gpu-backend/engine/artifacts.ts";
import { openModel } from "../../gpu-backend/engine/open-model.ts";
import { readModelConfig } from "../../gpu-backend/models/safetensors/model-folder.ts";
import { collectGarbage } from "../../gpu-backend/runtime/garbage.ts";
import { buildServingGraph } from "../../gpu-backend/runtime/model-graph.ts";
import { parametersOf } from "../../gpu-backend/runtime/model-weights.ts";
import { openStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import { randomWeights } from "../support/random-weights.ts";
import { smallBase } from "../support/small-base.ts";
import { noPast, randomBank, seededRandom, stepOf } from "../support/steps.ts";
import { tinyConfig } from "../support/tiny-model.ts";

const modelDirectory = smallBase;

test("an open model keeps no copy of its weights beside the session", async () => {
  const before = process.memoryUsage().arrayBuffers;
  const settings = {
    modelDirectory,
    artifactsDirectory: artifactsOf(modelDirectory),
    threads: 1,
  } as const;
  const { runner } = await openModel({ ...settings, weightFormat: "fp32" }, () => 0);
  const weightBytes = 4 * parametersOf(await readModelConfig(modelDirectory));
  // The bound is not 0, because the hyper-network's file is kept.
  await expect
    .poll(() => process.memoryUsage().arrayBuffers - before, { timeout: 10_000 })
    .toBeLessThan(weightBytes / 2);
  await runner.release();
});

test("garbage is collected when it is asked for, not when V8 finds it worth it", async () => {
  const dropped = new WeakRef(new ArrayBuffer(1e7));
  // A WeakRef keeps what it refers to until the running job is done.
  await setImmediate();
  collectGarbage();
  expect(dropped.deref()).toBeUndefined();
});

test("the session has its own copy of the graph and its weights", async () => {
  const random = seededRandom(5);
  const bank = randomBank(tinyConfig, 2, 1, random);
  const weights = randomWeights(tinyConfig, random);
  for (const format of ["fp32", "int8"] as const) {
    const graph = buildServingGraph(tinyConfig, weights, bank, { format });
    const runner = await openStepRunner(graph, { config: tinyConfig, bank, threads: 1 });
    const before = await scoresOf(runner);
    graph.fill(0);
    expect(await scoresOf(runner)).toEqual(before);
    await runner.release();
  }
});

async function scoresOf(runner: StepRunner): Promise<Float32Array | null> {
  const row = { tokenIds: [1, 2, 3], gates: new Float32Array(runner.gates).fill(0.5), ...noPast(runner.config) };
  const { scores } = await runner.run(stepOf(runner.config, [row]));
  return scores;
}
