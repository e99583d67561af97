/**
 * Reads the artifacts and opens a session over them. Model file, matrices and graph are dropped as soon as the next step of
 * loading has read them, so that a loaded model takes the memory of its session alone.
 */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { bankOf } from "../adapters/generated/hyper-network.ts";
import { selectDevice } from "../runtime/device-probe.ts";
import { collectGarbage } from "../runtime/garbage.ts";
import { buildServingGraph } from "../runtime/model-graph.ts";
import { openStepRunner } from "../runtime/onnx-runner.ts";
import type { Device } from "../runtime/session.ts";
import type { StepRunner } from "../runtime/step.ts";
import { readArtifacts } from "./artifacts.ts";
import type { EngineSettings } from "./messages.ts";

export interface OpenModel {
  runner: StepRunner;
  manifest: Manifest;
  manifestHash: string;
  tokenizer: Tokenizer;
  hyperNetwork: TensorFile;
  device: Device;
  /** Why it is not the requested device. */
  deviceWarning: string | null;
}

type OpenSettings = Pick<
  EngineSettings,
  "modelDirectory" | "artifactsDirectory" | "threads" | "weightFormat" | "device"
>;

/** Throws an Error that names the file or setting at fault. `now` is a clock that only goes forward, in milliseconds. */
export async function openModel(settings: OpenSettings, now: () => number): Promise<OpenModel> {
  const { artifacts, ...built } = await buildGraph(settings, now);
  collectGarbage();
  const runner = await openStepRunner(built.graph, built.options);
  // The graph's bytes, by far the largest part of what is left.
  built.graph = new Uint8Array(0);
  collectGarbage();
  return { ...artifacts, runner, device: built.options.device, deviceWarning: built.warning };
}

/** A function of its own, so that the weights are garbage when it returns. */
async function buildGraph(settings: OpenSettings, now: () => number) {
  const { threads, weightFormat: format } = settings;
  const { model, ...artifacts } = await readArtifacts(settings.modelDirectory, settings.artifactsDirectory);
  const { config, weights } = model;
  const { device, warning } = await selectDevice({ setting: settings.device, format, threads, now });
  const bank = bankOf(artifacts.hyperNetwork);
  const graph = buildServingGraph(config, weights, bank, { format, device });
  return { artifacts, graph, options: { config, bank, threads, format, device }, warning };
}
