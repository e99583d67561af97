/** Engines on an ONNX session of a set of artifacts. */
import { generatedAdapters } from "../../gpu-backend/adapters/generated/generated.ts";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import type { Artifacts } from "../../gpu-backend/engine/artifacts.ts";
import { createEngineHarness } from "./engine-harness.ts";
import { createStepRunner } from "./step-runner.ts";

type HarnessOptions = Partial<Parameters<typeof createEngineHarness>[0]>;
export type ModelHarness = Awaited<ReturnType<typeof openModelHarness>>;

/** Opens one session; `harness` makes any number of engines on it. `stop` closes the session. */
export async function openModelHarness(
  artifacts: Artifacts,
  options: Partial<Parameters<typeof createStepRunner>[0]> = {},
) {
  const { model, manifest, hyperNetwork, tokenizer } = artifacts;
  const runner = await createStepRunner({ ...model, bank: bankOf(hyperNetwork), threads: 2, ...options });
  const source = generatedAdapters(manifest, hyperNetwork);
  const textPieceOf = (id: number) => tokenizer.textPieceOf(id);
  return {
    artifacts,
    runner,
    /** Adapters of the artifacts' centroids. */
    source,
    harness: (other: HarnessOptions = {}) => createEngineHarness({ runner, source, textPieceOf, ...other }),
    stop: () => runner.release(),
  };
}
