import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { SelfTestSettings } from "../engine/self-test-process.ts";
import {
  cpuReport,
  type DeviceReport,
  type DeviceSetting,
  deviceFormats,
  judgeDevice,
  type SelfTestRun,
} from "../runtime/device.ts";

/** A graphics adapter in software takes half a minute. */
const selfTestMs = 300_000;
const signals = ["SIGINT", "SIGTERM"] as const;
const maxLogBytes = 2 ** 26;

export interface DeviceSettings extends SelfTestSettings {
  device: DeviceSetting;
  /** If true, the backend does not fall back to the CPU (REQUIRE_DEVICE). */
  isDeviceRequired: boolean;
}

/** Throws an Error if a required device fails its self-test, or if what serves does not support the weight format. */
export async function checkDevice(settings: DeviceSettings, environment: NodeJS.ProcessEnv): Promise<DeviceReport> {
  const { device, isDeviceRequired, weightFormat } = settings;
  const isForDevices = weightFormat === "fp16";
  if (device === "cpu") {
    if (isForDevices) throw new Error("WEIGHT_FORMAT=fp16 is for devices; on a CPU, exact or int8 take less memory");
    return cpuReport;
  }
  if (!deviceFormats.includes(weightFormat)) {
    throw new Error(`a device serves WEIGHT_FORMAT=${deviceFormats.join(" or ")}, not ${weightFormat}`);
  }
  if (isForDevices && !("Float16Array" in globalThis)) {
    throw new Error(`WEIGHT_FORMAT=fp16 needs Node 24 or newer, this is ${process.version}`);
  }
  const report = judgeDevice(device, await runSelfTest(settings, environment), process.platform === "linux");
  if (report.selfTest === "passed") return report;
  if (isDeviceRequired) throw new Error(`REQUIRE_DEVICE=${device}: ${report.found}`);
  if (isForDevices) throw new Error(`WEIGHT_FORMAT=fp16 needs a device: ${report.found}`);
  return report;
}

/** Never rejects. A crash of the process is reported as a failed self-test. */
function runSelfTest(settings: SelfTestSettings, environment: NodeJS.ProcessEnv): Promise<SelfTestRun> {
  const { modelDirectory, weightFormat, threads } = settings;
  const script = fileURLToPath(new URL("../engine/self-test-process.ts", import.meta.url));
  const argument = JSON.stringify({ modelDirectory, weightFormat, threads } satisfies SelfTestSettings);
  // ONNX Runtime's Node binding does not name the graphics adapter, but the Vulkan loader's log does.
  const env = { ...environment, VK_LOADER_DEBUG: "all" };
  const options = { env, timeout: selfTestMs, killSignal: "SIGKILL", maxBuffer: maxLogBytes } as const;
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [script, argument], options, (error, stdout, log) => {
      for (const signal of signals) process.removeListener(signal, end);
      const printed = resultIn(stdout);
      if (printed) return resolve({ ...printed, failure: "", log });
      const ended = error?.killed
        ? `did not end in ${selfTestMs / 1000} s`
        : `was ended by ${error?.signal ?? error?.code ?? "nothing, without a result"}`;
      resolve({ result: null, libraries: [], failure: `${ended}: ${reasonIn(log)}`, log });
    });
    // If this process ends, the self-test must end too, because it may hang in the driver.
    const end = () => {
      child.kill("SIGKILL");
      process.exit(1);
    };
    for (const signal of signals) process.once(signal, end);
  });
}

/** Finds the result among lines that drivers print. A printed result counts even if the process crashed later. */
function resultIn(stdout: string): Pick<SelfTestRun, "result" | "libraries"> | null {
  const line = stdout.split("\n").findLast((one) => one.startsWith('{"result":'));
  try {
    return line ? JSON.parse(line) : null;
  } catch {
    return null;
  }
}

/** The log's last error, without the source file and condition that ONNX Runtime puts before a message. */
function reasonIn(log: string): string {
  const line = log.split("\n").findLast((one) => /^\w*Error\b/.test(one)) ?? "no error was printed";
  return line.slice(line.lastIndexOf(" was false. ") + 1).replace(/^was false\. /, "");
}
