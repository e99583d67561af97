/** `chameleon doctor`: checks what `chameleon start` needs. Prints a line for each check, and how to mend a failed one. */
import path from "node:path";
import { createCommand, exitCodes, runCommand } from "../../gpu-backend/command-line.ts";
import { type BackendConfig, childEnvironment, readConfig } from "../../gpu-backend/config.ts";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { checkDevice } from "../../gpu-backend/host/device-check.ts";
import { maxSets, planMemory } from "../../gpu-backend/host/memory-plan.ts";
import { readBaseConfig } from "../../gpu-backend/models/base.ts";
import { stateFolder } from "../local-edge.ts";
import { readLocalRun } from "../local-run.ts";
import { assertPortsFree, readPort } from "../ports.ts";
import { readArtifactSet } from "../publish/artifact-set.ts";

interface Options {
  model?: string;
  json?: boolean;
}

const marks = { ok: "ok  ", warning: "note", failed: "FAIL" } as const;

function textOf({ name, state, found, mend }: Check): string {
  return `${marks[state]}  ${name.padEnd(10)}${found}\n${mend ? `      ${" ".repeat(10)}mend: ${mend}\n` : ""}`;
}

export interface Check {
  name: string;
  state: "ok" | "warning" | "failed";
  found: string;
  /** What the user can do; null if the check passed. */
  mend: string | null;
}

type Finding = Omit<Check, "name">;

const ok = (found: string): Finding => ({ state: "ok", found, mend: null });
const amiss = (state: "warning" | "failed", found: string, mend: string): Finding => ({ state, found, mend });
const cpuMend =
  "set DEVICE=cpu, no REQUIRE_DEVICE and a WEIGHT_FORMAT for CPUs, or mend what is missing: infra/docs/gpu.md";
const megabytes = (bytes: number) => `${Math.round(bytes / 1e6).toLocaleString("en")} MB`;

/** In the order in which a start would fail. */
function checks(modelDirectory: string | undefined): (() => Promise<Check>)[] {
  const model = () => path.resolve(modelDirectory ?? readConfig().modelDirectory);
  const named: [string, (config: BackendConfig) => Finding | Promise<Finding>, mend: string][] = [
    ["memory", (config) => checkMemory(config, model()), "name a model folder with --model or MODEL_DIR"],
    ["ports", checkPorts, "set EDGE_PORT and BACKEND_PORT to free ports"],
    [
      "model",
      () => checkModel(model()),
      "copy or import the model again: chameleon import gpt2; or train: chameleon train",
    ],
    [
      "artifacts",
      () => checkArtifacts(model()),
      "train or copy the artifacts again; chameleon train writes them whole",
    ],
    ["device", (config) => checkDeviceOf({ ...config, modelDirectory: model() }), cpuMend],
  ];
  return named.map(([name, check, mend]) => async () => {
    try {
      return { name, ...(await check(readConfig())) };
    } catch (error) {
      return { name, ...amiss("failed", error instanceof Error ? error.message : String(error), mend) };
    }
  });
}

/** Compares the backend's memory plan with the free memory. The plan counts `maxSets` sets, because a publication loads two. */
async function checkMemory(config: BackendConfig, directory: string): Promise<Finding> {
  const limitBytes = process.availableMemory();
  const base = await readBaseConfig(directory);
  const { plannedBytes } = planMemory({
    ...{ ...config, ...base, limitBytes },
    ...{ sets: maxSets, isOnDevice: config.device !== "cpu" },
  });
  const found = `${megabytes(limitBytes)} free, up to ${megabytes(plannedBytes)} may be taken`;
  if (plannedBytes <= limitBytes) return ok(found);
  return amiss(
    "warning",
    found,
    "close other programs, or set WEIGHT_FORMAT=int8 and smaller KV_BYTES and PREFIX_CACHE_BYTES",
  );
}

async function checkPorts(): Promise<Finding> {
  const running = readLocalRun(stateFolder());
  if (running) return ok(`a local start is running at ${running.edge}`);
  const edge = readPort(process.env, "EDGE_PORT", 8787);
  const backend = readPort(process.env, "BACKEND_PORT", 8788);
  await assertPortsFree([
    ["EDGE_PORT", edge],
    ["BACKEND_PORT", backend],
  ]);
  return ok(`${edge} and ${backend} are free`);
}

/** Uses the backend's own code, which compares every file with its hash in the manifest. */
async function checkModel(directory: string): Promise<Finding> {
  const { model, manifestHash } = await readArtifacts(directory);
  model.close();
  const { layers, hiddenSize } = model.config;
  return ok(`${directory}: ${layers} layers of ${hiddenSize}; weights and manifest ${manifestHash.slice(0, 12)} agree`);
}

async function checkArtifacts(directory: string): Promise<Finding> {
  const { manifest, files } = await readArtifactSet(path.join(directory, "artifacts"));
  const off = manifest.centroids.filter(({ scale }) => scale === 0).length;
  const found = `${files.size} files match their hashes; ${manifest.centroids.length} centroids, ${off} switched off`;
  if (off < manifest.centroids.length) return ok(found);
  return amiss("warning", found, "every prompt is answered by the base until you train: chameleon train --help");
}

async function checkDeviceOf(config: BackendConfig): Promise<Finding> {
  const { device, threads, weightFormat } = config;
  const report = await checkDevice(config, childEnvironment());
  const adapter = report.adapter === null ? "" : `, ${report.adapter} (${report.driver})`;
  const found = `DEVICE=${device}: ${report.name}, ${threads} threads, ${weightFormat}${adapter}; ${report.found}`;
  return report.selfTest === "refused" ? amiss("warning", found, cpuMend) : ok(found);
}

await runCommand(
  createCommand(
    "doctor",
    "Check memory, ports, artifacts, hashes and device, and name the mend for each that is amiss",
    ["chameleon doctor", "chameleon doctor --model ./my-model"],
    "Exit code 1 where something is amiss that keeps `chameleon start` from serving.",
  )
    .option("--model <folder>", "the model to check; MODEL_DIR, or the embedded one, unless set")
    .option("--json", "print JSON")
    .action(async ({ model, json }: Options) => {
      const found: Check[] = [];
      for (const check of checks(model)) {
        const result = await check();
        found.push(result);
        if (!json) process.stdout.write(textOf(result));
      }
      if (json) process.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
      if (found.some(({ state }) => state === "failed")) process.exitCode = exitCodes.failed;
    }),
);
