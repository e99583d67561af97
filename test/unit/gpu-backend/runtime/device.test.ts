import { describe, expect, test } from "vitest";
import {
  chooseDevice,
  type DeviceSetting,
  deviceSettings,
  devicesToProbe,
  minSpeedup,
  type Probe,
  probeTolerance,
} from "../../../../gpu-backend/runtime/device.ts";
import { weightFormats } from "../../../../gpu-backend/runtime/products.ts";
import type { Device } from "../../../../gpu-backend/runtime/session.ts";

const right = Float32Array.of(1, -2, 4);
const cpu: Probe = { milliseconds: 10, result: right };
const gpu: Probe = { milliseconds: 10 / minSpeedup, result: right };
const slow: Probe = { milliseconds: 400, result: right };
const wrong: Probe = { milliseconds: 1, result: Float32Array.of(1, -2, 4 + 8 * probeTolerance) };
const broken: Probe = { milliseconds: 1, result: Float32Array.of(1, Number.NaN, 4) };
const absent: Probe = { failure: "No supported adapters" };

const probes = (device: Device, found: Probe) =>
  new Map<Device, Probe>([
    ["cpu", cpu],
    [device, found],
  ]);
const choose = (setting: DeviceSetting, found: Probe) =>
  chooseDevice(setting, "fp32", probes(setting === "cuda" ? "cuda" : "webgpu", found));

describe("what is called a GPU", () => {
  test.each(["auto", "webgpu"] as const)("%s takes an adapter that is right and fast", (setting) => {
    expect(choose(setting, gpu)).toEqual({ device: "webgpu", warning: null });
  });

  test.each(["auto", "webgpu"] as const)("%s leaves a slow adapter, and says how slow", (setting) => {
    const { device, warning } = choose(setting, slow);
    expect(device).toBe("cpu");
    expect(warning).toContain("0.03 times");
    const { milliseconds } = gpu as { milliseconds: number };
    expect(choose(setting, { milliseconds: milliseconds * 1.01, result: right }).device).toBe("cpu");
  });

  test.each([wrong, broken])("a fast adapter that computes something else is left", (found) => {
    const { device, warning } = choose("auto", found);
    expect(device).toBe("cpu");
    expect(warning).toContain("away from the CPU");
  });

  test("no adapter is worth a warning only to who asked for one", () => {
    expect(choose("auto", absent)).toEqual({ device: "cpu", warning: null });
    expect(choose("webgpu", absent)).toEqual({
      device: "cpu",
      warning: expect.stringContaining("No supported adapters"),
    });
  });
});

test("CUDA is taken where it works and refused where it is not there", () => {
  expect(choose("cuda", gpu).device).toBe("cuda");
  expect(() => choose("cuda", { failure: "cannot load" })).toThrow(/DEVICE=cuda.*cannot load.*DEVICE=webgpu/);
});

test("the CPU is taken without any probe", () => {
  expect(devicesToProbe("cpu", "fp32")).toEqual([]);
  expect(chooseDevice("cpu", "int8", new Map())).toEqual({ device: "cpu", warning: null });
});

test.each(weightFormats.filter((format) => format !== "fp32"))("%s is the CPU's", (format) => {
  expect(devicesToProbe("auto", format)).toEqual([]);
  expect(chooseDevice("auto", format, new Map())).toEqual({ device: "cpu", warning: null });
  expect(() => chooseDevice("webgpu", format, probes("webgpu", gpu))).toThrow(`not ${format}`);
});

test.each(deviceSettings)("%s can be decided from the devices that it says to probe", (setting) => {
  const found = new Map(devicesToProbe(setting, "fp32").map((device) => [device, device === "cpu" ? cpu : gpu]));
  expect(() => chooseDevice(setting, "fp32", found)).not.toThrow();
});
