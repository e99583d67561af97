/** Engines on a runner of a set of artifacts. */
import { generatedAdapters } from "../../gpu-backend/adapters/generated/generated.ts";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import type { Artifacts } from "../../gpu-backend/engine/artifacts.ts";
import { openDeviceRunner } from "../../gpu-backend/kv/device-runner.ts";
import type { Runner } from "../../gpu-backend/kv/runner.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import { createEngineHarness } from "./engine-harness.ts";
import { createStepRunner } from "./step-runner.ts";

type HarnessOptions = Partial<Parameters<typeof createEngineHarness>[0]>;
export type ModelHarness<R = StepRunner> = ReturnType<typeof harnessOn> & { runner: R };

const deviceLimits = { maxSequences: 64, kvBytes: 2 ** 27, threads: 2 };

/** Opens one session. `harness` makes engines on it. */
export async function openModelHarness(
  artifacts: Artifacts,
  options: Partial<Parameters<typeof createStepRunner>[0]> = {},
): Promise<ModelHarness> {
  const { model, hyperNetwork } = artifacts;
  const runner = await createStepRunner({ ...model, bank: bankOf(hyperNetwork), threads: 2, ...options });
  return { ...harnessOn(artifacts, runner), runner };
}

/** On a WebGPU device, where only one engine may run at a time. */
export async function openDeviceHarness(artifacts: Artifacts): Promise<ModelHarness<Runner>> {
  const runner = await openDeviceRunner({ ...artifacts.model, bank: bankOf(artifacts.hyperNetwork) }, deviceLimits);
  return { ...harnessOn(artifacts, runner), runner };
}

function harnessOn(artifacts: Artifacts, runner: StepRunner | Runner) {
  const { manifest, hyperNetwork, tokenizer } = artifacts;
  const source = generatedAdapters(manifest, hyperNetwork);
  const textPieceOf = (id: number) => tokenizer.textPieceOf(id);
  return {
    artifacts,
    source,
    harness: (other: HarnessOptions = {}) => createEngineHarness({ runner, source, textPieceOf, ...other }),
    stop: () => runner.release(),
  };
}
