/** Opens a session over a model's graph. Drops files, matrices and graph once they are read, so a loaded model takes only its session. */
import { join } from "node:path";
import { bankOf } from "../adapters/generated/hyper-network.ts";
import { chooseDevice } from "../runtime/device.ts";
import { probeDevice } from "../runtime/device-probe.ts";
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
import { readSmoothing } from "./smoothing-file.ts";

type OpenSettings = Pick<
  EngineSettings,
  "modelDirectory" | "artifactsDirectory" | "threads" | "weightFormat" | "device"
> &
  Partial<Pick<EngineSettings, "dataDirectory">>;

/** Graphs of models with fewer parameters are not kept: to build one takes no longer than the rest of a start. */
const preparedParameters = 2 ** 25;

/** `warnings` as in EngineInfo. `now` is a monotonic clock, in milliseconds. Throws an Error that names the file or setting at fault. */
export async function openModel(settings: OpenSettings, now: () => number) {
  const { artifacts, ...built } = await buildGraph(settings, now);
  collectGarbage();
  const runner = await openStepRunner(built.graph, built.options);
  // Drops the graph's bytes.
  built.graph = "";
  collectGarbage();
  return { ...artifacts, runner, device: built.options.device, warnings: built.warnings };
}

/** A function of its own, so that the weights are garbage when it returns. */
async function buildGraph(settings: OpenSettings, now: () => number) {
  const { modelDirectory, artifactsDirectory, dataDirectory: folder, threads, weightFormat: format } = settings;
  const unixNow = () => performance.timeOrigin + now();
  const record = folder ? { folder, now: unixNow } : undefined;
  const { model, ...artifacts } = await readArtifacts(modelDirectory, artifactsDirectory, record);
  try {
    const { config, weights } = model;
    const { device, warning } = await chooseDevice(settings.device, format, (one) => probeDevice(one, threads, now));
    const bank = bankOf(artifacts.hyperNetwork);
    const kv = kvFormatFor(format);
    const smoothing = format === "int8" ? await readSmoothing(modelDirectory) : null;
    const build = (file?: ConstantFile) => {
      const stored = smoothing ? smoothed(config, weights, smoothing.magnitudes) : weights;
      return buildServingGraph(config, stored, bank, { format, device, kv, file });
    };
    const { contextTokens } = artifacts.manifest.model;
    const options = { config: { ...config, contextTokens }, bank, threads, format, device, kv };
    if (!folder || parametersOf(config) < preparedParameters) {
      return { artifacts, graph: build() as Uint8Array | string, options, warnings: warning ? [warning] : [] };
    }
    const key = await graphKey({
      ...{ config, format, device, weights: model.weightsHash },
      ...{ manifest: artifacts.manifestHash, smoothing: smoothing?.hash },
    });
    const prepared = await preparedGraph(join(folder, "prepared"), key, build, unixNow);
    const warnings = [warning, prepared.warning].filter((text) => text !== null);
    return { artifacts, graph: prepared.graph, options, warnings };
  } finally {
    model.close();
  }
}
