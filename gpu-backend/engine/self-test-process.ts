/** Runs the self-test. A fault of a driver may end this process. Usage: node self-test-process.ts SETTINGS. Prints a line of JSON. */
import { readFileSync } from "node:fs";
import { openDeviceRunner } from "../kv/device-runner.ts";
import { HostRunner } from "../kv/host-runner.ts";
import type { Runner } from "../kv/runner.ts";
import { openBase } from "../models/base.ts";
import { deviceTolerances } from "../runtime/device.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { buildServingGraph } from "../runtime/model-graph.ts";
import { openStepRunner } from "../runtime/onnx-runner.ts";
import type { WeightFormat } from "../runtime/products.ts";
import type { EngineSettings } from "./messages.ts";
import { runSelfTest, testBank, testRows } from "./self-test.ts";

export type SelfTestSettings = Pick<EngineSettings, "modelDirectory" | "weightFormat" | "threads">;

/** Two layers, because the second layer reads the output of the first. */
const layers = 2;
/** Short, because a row on a device takes memory for the whole context. */
const contextTokens = 256;
const gates = 8;
const kvBytes = 2 ** 31;
const longestRun = 128;

const { modelDirectory, weightFormat: format, threads } = JSON.parse(process.argv[2]) as SelfTestSettings;
const { config: whole, weights, close } = await openBase(modelDirectory);
const isLearned = whole.positions === "learned";
const config: ModelConfig = {
  ...whole,
  layers: Math.min(layers, whole.layers),
  contextTokens: isLearned ? whole.contextTokens : Math.min(contextTokens, whole.contextTokens),
};
const bank = testBank(config, gates);
const limits = { maxSequences: testRows, kvBytes, threads };

async function open(tested: WeightFormat, runTokens: number | "host"): Promise<Runner> {
  if (runTokens !== "host")
    return openDeviceRunner({ config, weights, bank, format: tested }, { ...limits, runTokens });
  const graph = buildServingGraph(config, weights, bank, { format: "fp32" });
  const steps = await openStepRunner(graph, { config, bank, threads });
  return new HostRunner(steps, { ...limits, chunkTokens: contextTokens });
}

/** Tests the device in a format with runs of at most `longest` tokens. */
const test = (tested: WeightFormat, longest: number) =>
  runSelfTest((runTokens) => open(tested, runTokens), longest, deviceTolerances[tested]!);

let result = await test(format === "fp16" ? "fp32" : format, longestRun);
// float16's own rounding hides small errors of a kernel, so a device is tested in fp32 first.
if (format === "fp16" && result.failures.length === 0) {
  const half = await test(format, result.runTokens);
  result = { ...half, switchedOff: [...result.switchedOff, ...half.switchedOff] };
}
close();
// The file names of loaded drivers contain versions, which the Vulkan loader does not log.
const maps = process.platform === "linux" ? readFileSync("/proc/self/maps", "utf8") : "";
const libraries = [...new Set(maps.match(/\/\S+\.so(\.\S+)?$/gm))];
process.stdout.write(`\n${JSON.stringify({ result, libraries })}\n`);
