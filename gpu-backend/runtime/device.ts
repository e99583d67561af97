import type { ServingDevice } from "../../shared/contracts/inference.ts";
import type { WeightFormat } from "./products.ts";

/** "software" is WebGPU on a graphics adapter that computes on the CPU, for tests. The setting "webgpu" rejects such adapters. */
export type DeviceSetting = "cpu" | "webgpu" | "software";

/** Weight formats that WebGPU supports. */
export const deviceFormats: readonly WeightFormat[] = ["fp32"];

/** A graphics adapter, with the names that the Vulkan loader logs. */
interface Adapter {
  name: string;
  /** File name of the driver, with the version if the file name has one. */
  driver: string;
}

/** Results of the self-test. All fields can be serialized as JSON. */
export interface SelfTest {
  /** A phrase for each case that differs from the CPU. The device serves only if the list is empty. */
  failures: string[];
  /** A phrase for each feature that failed and that the device can serve without. */
  switchedOff: string[];
  /** Largest number of a row's tokens in one run whose results are right. */
  runTokens: number;
  /** Whether a row has the same bits alone as in a batch. */
  rowsAreIndependent: boolean;
  /** Largest difference from the CPU's logits, divided by the largest logit. */
  difference: number;
}

/** How the process of the self-test ended: with `result`, or with the phrase `failure`. `log` is its stderr. */
export interface SelfTestRun {
  result: SelfTest | null;
  /** Paths of the libraries that the process had loaded. */
  libraries: readonly string[];
  failure: string;
  log: string;
}

export type DeviceReport = ServingDevice & Pick<SelfTest, "runTokens" | "rowsAreIndependent">;

export const cpuReport: DeviceReport = {
  ...{ name: "cpu", adapter: null, driver: null, selfTest: "none", found: "the CPU needs no self-test" },
  ...{ runTokens: Number.POSITIVE_INFINITY, rowsAreIndependent: true },
};

/** Decides whether the graphics adapter of a self-test serves. Pure. */
export function judgeDevice(setting: "webgpu" | "software", run: SelfTestRun, isLinux: boolean): DeviceReport {
  const adapter = isLinux ? adapterOf(run) : { name: "the system's default", driver: "the system's" };
  const named = { adapter: adapter?.name ?? null, driver: adapter?.driver ?? null };
  const refused = (found: string): DeviceReport => ({ ...cpuReport, ...named, selfTest: "refused", found });
  if (!adapter) return refused(missingPiece(run));
  const { result } = run;
  if (setting === "webgpu" && isSoftware(adapter)) {
    return refused(`the only adapter is in software (${adapter.name}), which only DEVICE=software takes`);
  }
  if (setting === "software" && !isSoftware(adapter)) return refused(`${adapter.name} is no software adapter`);
  if (!result) return refused(`the self-test ${run.failure}`);
  if (result.failures.length > 0) return refused(`the self-test failed: ${result.failures.join("; ")}`);
  const { switchedOff, runTokens, rowsAreIndependent, difference } = result;
  const found = [
    ...(isSoftware(adapter) ? ["a software adapter, not a GPU"] : []),
    `at most ${difference.toExponential(1)} from the CPU`,
    ...switchedOff.map((what) => `switched off: ${what}`),
    `rows ${rowsAreIndependent ? "do not depend" : "depend"} on others`,
  ].join("; ");
  return { ...named, name: "webgpu", selfTest: "passed", found, runTokens, rowsAreIndependent };
}

function missingPiece({ log, failure, result }: SelfTestRun): string {
  if (!log.includes("Vulkan Loader Version")) return `there is no Vulkan loader (Debian: libvulkan1): it ${failure}`;
  const drivers = new Set(log.matchAll(/Found ICD manifest file (\S+?),/g).map(([, file]) => file));
  if (drivers.size === 0) {
    return "the Vulkan loader finds no driver (/etc/vulkan/icd.d); in a container NVIDIA's comes from the Container Toolkit by the runtime `nvidia` and NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics";
  }
  if (result) return "the Vulkan loader is too old to name its adapter";
  return `no Vulkan driver has an adapter (${[...drivers].join(", ")}); is the device in this container? It ${failure}`;
}

function isSoftware({ name, driver }: Adapter): boolean {
  return /llvmpipe|lavapipe|swiftshader|libvulkan_lvp/i.test(`${name} ${driver}`);
}

/** The graphics adapter that was opened, from the loader's log with VK_LOADER_DEBUG; null if none was opened. */
function adapterOf({ log, libraries }: SelfTestRun): Adapter | null {
  const [, name, driver] = /Using "(.*?)" with driver: "(.*?)"/.exec(log) ?? [];
  if (name === undefined) return null;
  const stem = `/${driver.replace(/^.*\//, "").replace(/\.so.*$/, ".so")}`;
  return { name, driver: libraries.find((path) => path.includes(stem)) ?? driver };
}
