/**
 * Reads the artifacts and opens a session over them, with the graph of an earlier start where one was kept. Model file, matrices and graph are dropped as soon as the next step of
 * loading has read them, so that a loaded model takes the memory of its session alone.
 */
import { join } from "node:path";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { bankOf } from "../adapters/generated/hyper-network.ts";
import { selectDevice } from "../runtime/device-probe.ts";
import { collectGarbage } from "../runtime/garbage.ts";
import type { ConstantFile } from "../runtime/graph.ts";
import { buildServingGraph } from "../runtime/model-graph.ts";
import { parametersOf } from "../runtime/model-weights.ts";
import { openStepRunner } from "../runtime/onnx-runner.ts";
import { kvFormatFor } from "../runtime/products.ts";
import type { Device } from "../runtime/session.ts";
import { smoothed } from "../runtime/smoothing.ts";
import type { StepRunner } from "../runtime/step.ts";
import { type Artifacts, readArtifacts } from "./artifacts.ts";
import type { EngineSettings } from "./messages.ts";
import { graphKey, preparedGraph } from "./prepared-graph.ts";
import { readSmoothing } from "./smoothing-file.ts";

export interface OpenModel {
  runner: StepRunner;
  manifest: Manifest;
  manifestHash: string;
  tokenizer: Tokenizer;
  hyperNetwork: TensorFile;
  device: Device;
  /** Why it is not the requested device, and why the prepared graph is not kept. */
  warnings: string[];
}

type OpenSettings = Pick<
  EngineSettings,
  "modelDirectory" | "artifactsDirectory" | "threads" | "weightFormat" | "device"
> &
  Partial<Pick<EngineSettings, "dataDirectory">>;

/** Parameters from which on building the graph takes longer than the rest of a start. */
const preparedParameters = 2 ** 25;

/** Throws an Error that names the file or setting at fault. `now` is a clock that only goes forward, in milliseconds. */
export async function openModel(settings: OpenSettings, now: () => number): Promise<OpenModel> {
  const { artifacts, ...built } = await buildGraph(settings, now);
  collectGarbage();
  const runner = await openStepRunner(built.graph, built.options);
  // The graph's bytes, by far the largest part of what is left.
  built.graph = "";
  collectGarbage();
  return { ...artifacts, runner, device: built.options.device, warnings: built.warnings };
}

/** A function of its own, so that the weights are garbage when it returns. */
async function buildGraph(settings: OpenSettings, now: () => number) {
  const { modelDirectory, artifactsDirectory, dataDirectory: folder } = settings;
  const record = folder ? { folder, now: () => performance.timeOrigin + now() } : undefined;
  const artifacts = await readArtifacts(modelDirectory, artifactsDirectory, record);
  try {
    return await buildGraphOf(artifacts, settings, now);
  } finally {
    artifacts.model.close();
  }
}

async function buildGraphOf({ model, ...artifacts }: Artifacts, settings: OpenSettings, now: () => number) {
  const { threads, weightFormat: format } = settings;
  const { config, weights } = model;
  const { device, warning } = await selectDevice({ setting: settings.device, format, threads, now });
  const bank = bankOf(artifacts.hyperNetwork);
  const kv = kvFormatFor(format);
  const smoothing = format === "int8" ? await readSmoothing(settings.modelDirectory) : null;
  const build = (file?: ConstantFile) => {
    const stored = smoothing ? smoothed(config, weights, smoothing.magnitudes) : weights;
    return buildServingGraph(config, stored, bank, { format, device, kv, file });
  };
  const { contextTokens } = artifacts.manifest.model;
  const options = { config: { ...config, contextTokens }, bank, threads, format, device, kv };
  if (!settings.dataDirectory || parametersOf(config) < preparedParameters) {
    return { artifacts, graph: build() as Uint8Array | string, options, warnings: warning ? [warning] : [] };
  }
  const key = await graphKey({
    config,
    weights: model.weightsHash,
    manifest: artifacts.manifestHash,
    smoothing: smoothing?.hash,
    format,
    device,
  });
  const prepared = await preparedGraph(
    join(settings.dataDirectory, "prepared"),
    key,
    build,
    () => performance.timeOrigin + now(),
  );
  const warnings = [warning, prepared.warning].filter((text) => text !== null);
  return { artifacts, graph: prepared.graph, options, warnings };
}
