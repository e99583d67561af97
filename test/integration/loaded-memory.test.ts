/** Loading a model leaves none of its file, matrices or graph in the process, because ONNX Runtime has copied them. */
import { expect, test } from "vitest";
import { artifactsOf } from "../../gpu-backend/engine/artifacts.ts";
import { openModel } from "../../gpu-backend/engine/open-model.ts";
import { readModelConfig } from "../../gpu-backend/models/safetensors/model-folder.ts";
import { parametersOf } from "../../gpu-backend/runtime/model-weights.ts";
import { smallBase } from "../support/small-base.ts";

test("an open model keeps no copy of its weights beside the session", async () => {
  const before = process.memoryUsage().arrayBuffers;
  const { runner } = await openModel(
    { modelDirectory: smallBase, artifactsDirectory: artifactsOf(smallBase), threads: 1, weightFormat: "fp32" },
    () => 0,
  );
  const weightBytes = 4 * parametersOf(await readModelConfig(smallBase));
  // The bound is not 0, because the hyper-network's file is kept.
  await expect
    .poll(() => process.memoryUsage().arrayBuffers - before, { timeout: 10_000 })
    .toBeLessThan(weightBytes / 2);
  await runner.release();
});
