/**
 * Chooses the device that serves. ONNX Runtime also accepts WebGPU adapters in software, so an adapter counts as a GPU only if it
 * computes the same as the CPU, and clearly faster.
 */
import type { WeightFormat } from "./products.ts";
import type { Device } from "./session.ts";

/** "auto" is a GPU by WebGPU if there is one, else the CPU. */
export type DeviceSetting = "auto" | Device;

/** How a device did the work of device-probe.ts, or why it could not. */
export type Probe = { milliseconds: number; result: Float32Array } | { failure: string };

/** With a smaller speed-up, launching kernels and moving logits cost more than a device gains. Software adapters reach 0.1 at most. */
export const minSpeedup = 2;
/** Largest relative difference from the CPU's result. Kernels that only sum in another order stay far below. */
export const probeTolerance = 1e-3;

/**
 * Returns the device that serves, and a warning for the operator. Probes devices if the setting leaves a choice. Falls back to the CPU,
 * with a warning unless "auto" found no adapter at all. Throws an Error if CUDA is not available, and for a GPU with a weight format
 * that only the CPU serves.
 */
export async function chooseDevice(
  setting: DeviceSetting,
  format: WeightFormat,
  probe: (device: Device) => Promise<Probe>,
) {
  const onCpu = (warning: string | null) => ({ device: "cpu" as Device, warning });
  if (setting === "cpu" || (setting === "auto" && format !== "fp32")) return onCpu(null);
  if (format !== "fp32") {
    throw new Error(`DEVICE=${setting} serves WEIGHT_FORMAT=fp32 only, not ${format}: its kernels are the CPU's`);
  }
  const device: Device = setting === "cuda" ? "cuda" : "webgpu";
  const [cpu, found] = [await probe("cpu"), await probe(device)];
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
  // Not `difference > probeTolerance`, which is false for NaN.
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

/** Largest difference, divided by the largest expected magnitude; NaN if a value is NaN. */
function relativeDifference(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return actual.reduce((max, value, i) => Math.max(max, Math.abs(value - expected[i])), 0) / scale;
}
