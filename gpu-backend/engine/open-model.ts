/**
 * Reads what is served and opens a session over it. ONNX Runtime copies what it is given, so the model file, the matrices made
 * from it and the graph are garbage once the session is open: for GPT-2 124M three quarters of a gigabyte, which is given back here
 * because an idle thread has no reason to collect garbage.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { servedBank, servedPool } from "../adapters/generated.ts";
import { selectDevice } from "../runtime/device-probe.ts";
import { createStepRunner } from "../runtime/onnx-runner.ts";
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
  /** Why it is not the device that was asked for. */
  deviceWarning: string | null;
}

type OpenSettings = Pick<
  EngineSettings,
  "modelDirectory" | "artifactsDirectory" | "threads" | "weightFormat" | "device" | "adapterSlots"
>;

/** Throws an Error that names the file or setting at fault. `now` is a clock that only goes forward, in milliseconds. */
export async function openModel(settings: OpenSettings, now: () => number): Promise<OpenModel> {
  const opened = await load(settings, now);
  collectGarbage();
  return opened;
}

/** A function of its own: what it holds is garbage when it returns. */
async function load(settings: OpenSettings, now: () => number): Promise<OpenModel> {
  const { threads, weightFormat: format } = settings;
  const { model, ...artifacts } = await readArtifacts(settings.modelDirectory, settings.artifactsDirectory);
  const { manifest, hyperNetwork } = artifacts;
  const { device, warning } = await selectDevice({ setting: settings.device, format, threads, now });
  const bank = servedBank(manifest, hyperNetwork);
  const pool = servedPool(manifest, settings.adapterSlots);
  const runner = await createStepRunner({ ...model, bank, pool, threads, format, device });
  return { ...artifacts, runner, device, deviceWarning: warning };
}

/** Node has no other way to ask for it. */
function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  const gc: () => void = runInNewContext("gc");
  gc();
}
