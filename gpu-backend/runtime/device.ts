import type { ServingDevice } from "../../shared/contracts/inference.ts";
import type { WeightFormat } from "./products.ts";

/** "software" is WebGPU on a graphics adapter that computes on the CPU, for tests. The setting "webgpu" rejects such adapters. */
export type DeviceSetting = "cpu" | "webgpu" | "software";

/**
 * Weight formats that devices serve, each with the allowed difference from the CPU's numbers in fp32, relative to the largest number. Another
 * order of summation causes a tenth of 1e-4. float16 rounds by up to 5e-4 at each operator; the two bases of this repository differ by .003
 * and .011.
 */
export const deviceTolerances: Partial<Record<WeightFormat, number>> = { fp32: 1e-4, fp16: 0.03, exact: 1e-4 };
export const deviceFormats = Object.keys(deviceTolerances) as WeightFormat[];

/** Names from the Vulkan loader's log. */
interface Adapter {
  name: string;
  /** File of the driver, with the version if the file name has one. */
  driver: string;
}

/** All fields can be serialized as JSON. */
export interface SelfTest {
  /** Failed cases in words. The device serves only if the list is empty. */
  failures: string[];
  /** Failed features in words. The device serves without these features. */
  switchedOff: string[];
  /** Largest number of a row's tokens in one run whose results are right. */
  runTokens: number;
  /** Whether a row has the same bits alone as in a batch. */
  rowsAreIndependent: boolean;
  /** Largest difference from the CPU's logits, divided by the largest logit. */
  difference: number;
}

/** `result` is null if the process failed. `failure` says how, `log` is stderr. */
export interface SelfTestRun {
  result: SelfTest | null;
  libraries: readonly string[];
  failure: string;
  log: string;
}

export type DeviceReport = ServingDevice & Pick<SelfTest, "runTokens" | "rowsAreIndependent">;

export const cpuReport: DeviceReport = {
  ...{ name: "cpu", adapter: null, driver: null, selfTest: "none", found: "the CPU needs no self-test" },
  ...{ runTokens: Number.POSITIVE_INFINITY, rowsAreIndependent: true },
};

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

/** Reads the log of a loader with VK_LOADER_DEBUG. Returns null if no adapter was opened. */
function adapterOf({ log, libraries }: SelfTestRun): Adapter | null {
  const [, name, driver] = /Using "(.*?)" with driver: "(.*?)"/.exec(log) ?? [];
  if (name === undefined) return null;
  const stem = `/${driver.replace(/^.*\//, "").replace(/\.so.*$/, ".so")}`;
  return { name, driver: libraries.find((path) => path.includes(stem)) ?? driver };
}
