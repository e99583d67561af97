/**
 * Chooses the device that serves from the setting and the results of device-probe.ts. Pure. ONNX Runtime accepts software WebGPU
 * adapters too, so an adapter counts as a GPU only if it computes the same as the CPU and clearly faster.
 */
import type { WeightFormat } from "./products.ts";
import type { Device } from "./session.ts";

/** What may be asked for; "auto" is a GPU by WebGPU where there is one, else the CPU. */
export const deviceSettings = ["auto", "cpu", "webgpu", "cuda"] as const;
export type DeviceSetting = (typeof deviceSettings)[number];

/** How a device did the probe's work, or why it could not. */
export type Probe = { milliseconds: number; result: Float32Array } | { failure: string };

/** The device that serves, and what the operator should know about that. */
export interface Choice {
  device: Device;
  warning: string | null;
}

/** Below this, launching kernels and moving logits costs what the device gains. Software adapters are at 0.1 or less. */
export const minSpeedup = 2;
/** Largest relative difference from the CPU's result; kernels that sum in another order stay far below. */
export const probeTolerance = 1e-3;

/** The devices to be probed before `chooseDevice`; none where the probe cannot change the choice. */
export function devicesToProbe(setting: DeviceSetting, format: WeightFormat): Device[] {
  if (setting === "cpu" || (setting === "auto" && format !== "fp32")) return [];
  return ["cpu", setting === "cuda" ? "cuda" : "webgpu"];
}

/**
 * Chooses. What is no GPU leaves the CPU, with a warning unless "auto" found nothing at all.
 * Throws an Error for CUDA that is not there, and for a GPU with a weight format that only the CPU serves.
 */
export function chooseDevice(setting: DeviceSetting, format: WeightFormat, probes: ReadonlyMap<Device, Probe>): Choice {
  const onCpu = (warning: string | null): Choice => ({ device: "cpu", warning });
  if (setting === "cpu") return onCpu(null);
  if (format !== "fp32") {
    if (setting === "auto") return onCpu(null);
    throw new Error(`DEVICE=${setting} serves WEIGHT_FORMAT=fp32 only, not ${format}: its kernels are the CPU's`);
  }
  const device = setting === "cuda" ? "cuda" : "webgpu";
  const cpu = probes.get("cpu");
  const found = probes.get(device);
  if (!cpu || !found) throw new Error(`DEVICE=${setting} is chosen from probes of cpu and ${device}`);
  if ("failure" in cpu) throw new Error(`the CPU failed the device probe: ${cpu.failure}`);
  if ("failure" in found) {
    if (setting === "cuda") {
      throw new Error(
        `DEVICE=cuda: this installation of onnxruntime-node has no working CUDA provider (${found.failure}); use DEVICE=webgpu or DEVICE=cpu`,
      );
    }
    return onCpu(setting === "auto" ? null : `no WebGPU adapter, serving on the CPU: ${found.failure}`);
  }
  const difference = relativeDifference(found.result, cpu.result);
  // Written so that NaN is refused.
  if (!(difference <= probeTolerance)) {
    return onCpu(
      `${device} computes ${difference.toExponential(1)} away from the CPU, at most ${probeTolerance} is right; serving on the CPU`,
    );
  }
  const speedup = cpu.milliseconds / found.milliseconds;
  if (!(speedup >= minSpeedup)) {
    return onCpu(
      `${device} has ${speedup.toFixed(2)} times the CPU's speed, a GPU has ${minSpeedup} at least; serving on the CPU`,
    );
  }
  return { device, warning: null };
}

/** Largest difference over the largest expected value; NaN where a value is. */
function relativeDifference(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return actual.reduce((max, value, i) => Math.max(max, Math.abs(value - expected[i])), 0) / scale;
}
