/** Files, matrices and graph are dropped once read, so that only the sessions remain in RAM. */
import { join } from "node:path";
import { bankOf } from "../adapters/generated/hyper-network.ts";
import { openDeviceRunner } from "../kv/device-runner.ts";
import { HostRunner } from "../kv/host-runner.ts";
import type { Runner } from "../kv/runner.ts";
import { collectGarbage } from "../runtime/garbage.ts";
import type { ConstantFile } from "../runtime/graph.ts";
import { buildServingGraph } from "../runtime/model-graph.ts";
import { parametersOf } from "../runtime/model-weights.ts";
import { openStepRunner } from "../runtime/onnx-runner.ts";
import { kvFormatFor } from "../runtime/products.ts";
import { smoothed } from "../runtime/smoothing.ts";
import { readArtifacts } from "./artifacts.ts";
import type { EngineSettings } from "./messages.ts";
import { graphKey, preparedGraph } from "./prepared-graph.ts";
import { readSmoothing, smoothingFile } from "./smoothing-file.ts";

type OpenSettings = Pick<EngineSettings, "modelDirectory" | "artifactsDirectory" | "threads" | "weightFormat"> &
  Partial<Pick<EngineSettings, "dataDirectory">>;

/** Minimum parameters of a model whose graph is kept. A smaller graph is built quickly. */
const preparedParameters = 2 ** 25;

/** For `warnings`, see EngineInfo. `now` is a monotonic clock, in milliseconds. */
export async function openRunner(settings: EngineSettings, now: () => number) {
  const { kvBytes, limits } = settings;
  if (settings.device.name === "webgpu") return { ...(await openOnDevice(settings)), warnings: [] };
  const { runner: steps, ...opened } = await openModel(settings, now);
  const runner: Runner = new HostRunner(steps, { ...limits, kvBytes });
  return { ...opened, runner };
}

async function openOnDevice(settings: EngineSettings) {
  const { modelDirectory, artifactsDirectory, threads, kvBytes, limits, weightFormat: format } = settings;
  const { runTokens } = settings.device;
  const { model, ...artifacts } = await readArtifacts(modelDirectory, artifactsDirectory);
  try {
    const { contextTokens } = artifacts.manifest.model;
    const { config, weights } = model;
    const served = { config: { ...config, contextTokens }, weights, format, bank: bankOf(artifacts.hyperNetwork) };
    const runner: Runner = await openDeviceRunner(served, { ...limits, kvBytes, threads, runTokens });
    return { ...artifacts, runner };
  } finally {
    model.close();
  }
}

/** Throws an Error that names the file or setting at fault. */
export async function openModel(settings: OpenSettings, now: () => number) {
  const { artifacts, ...built } = await buildGraph(settings, now);
  collectGarbage();
  const runner = await openStepRunner(built.graph, built.options);
  built.graph = ""; // frees its bytes
  collectGarbage();
  return { ...artifacts, runner, warnings: built.warnings };
}

/** A separate function, so that the weights are garbage when it returns. */
async function buildGraph(settings: OpenSettings, now: () => number) {
  const { modelDirectory, artifactsDirectory, dataDirectory: folder, threads, weightFormat: format } = settings;
  const unixNow = () => performance.timeOrigin + now();
  const record = folder ? { folder, now: unixNow } : undefined;
  const { model, ...artifacts } = await readArtifacts(modelDirectory, artifactsDirectory, record);
  try {
    const { config, weights } = model;
    const bank = bankOf(artifacts.hyperNetwork);
    const kv = kvFormatFor(format);
    const smoothing = format === "int8" ? await readSmoothing(modelDirectory) : null;
    const build = (file?: ConstantFile) => {
      const stored = smoothing ? smoothed(config, weights, smoothing.magnitudes) : weights;
      return buildServingGraph(config, stored, bank, { format, kv, file });
    };
    const { contextTokens } = artifacts.manifest.model;
    const options = { config: { ...config, contextTokens }, bank, threads, format, kv };
    const warnings: string[] = [];
    if (format === "int8" && !smoothing) {
      warnings.push(`int8 rounds less well without ${smoothingFile}; to make it: chameleon import ${modelDirectory}`);
    }
    if (!folder || parametersOf(config) < preparedParameters) {
      return { artifacts, graph: build() as Uint8Array | string, options, warnings };
    }
    const key = await graphKey({
      ...{ config, format, weights: model.weightsHash },
      ...{ manifest: artifacts.manifestHash, smoothing: smoothing?.hash },
    });
    const prepared = await preparedGraph(join(folder, "prepared"), key, build, unixNow);
    if (prepared.warning) warnings.push(prepared.warning);
    return { artifacts, graph: prepared.graph, options, warnings };
  } finally {
    model.close();
  }
}
