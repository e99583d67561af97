import { describe, expect, test } from "vitest";
import {
  chooseDevice,
  type DeviceSetting,
  minSpeedup,
  type Probe,
  probeTolerance,
} from "../../../../gpu-backend/runtime/device.ts";
import { weightFormats } from "../../../../gpu-backend/runtime/products.ts";

const right = Float32Array.of(1, -2, 4);
const cpu: Probe = { milliseconds: 10, result: right };
const gpu: Probe = { milliseconds: 10 / minSpeedup, result: right };
const slow: Probe = { milliseconds: 400, result: right };
const wrong: Probe = { milliseconds: 1, result: Float32Array.of(1, -2, 4 + 8 * probeTolerance) };
const broken: Probe = { milliseconds: 1, result: Float32Array.of(1, Number.NaN, 4) };
const absent: Probe = { failure: "No supported adapters" };

const choose = (setting: DeviceSetting, found: Probe) =>
  chooseDevice(setting, "fp32", async (device) => (device === "cpu" ? cpu : found));
const unprobed = () => expect.unreachable("a device was probed");

describe("what is called a GPU", () => {
  test.each(["auto", "webgpu"] as const)("%s takes an adapter that is right and fast", async (setting) => {
    expect(await choose(setting, gpu)).toEqual({ device: "webgpu", warning: null });
  });

  test.each(["auto", "webgpu"] as const)("%s leaves a slow adapter, and says how slow", async (setting) => {
    const { device, warning } = await choose(setting, slow);
    expect(device).toBe("cpu");
    expect(warning).toContain("0.03 times");
    const { milliseconds } = gpu as { milliseconds: number };
    expect((await choose(setting, { milliseconds: milliseconds * 1.01, result: right })).device).toBe("cpu");
  });

  test.each([wrong, broken])("a fast adapter with wrong results is not used", async (found) => {
    const { device, warning } = await choose("auto", found);
    expect(device).toBe("cpu");
    expect(warning).toContain("away from the CPU");
  });

  test("a missing adapter gives a warning only if one was asked for", async () => {
    expect(await choose("auto", absent)).toEqual({ device: "cpu", warning: null });
    expect(await choose("webgpu", absent)).toEqual({
      device: "cpu",
      warning: expect.stringContaining("No supported adapters"),
    });
  });
});

test("CUDA is taken where it works and refused where it is not there", async () => {
  const probed: string[] = [];
  const choice = await chooseDevice("cuda", "fp32", async (device) => {
    probed.push(device);
    return device === "cpu" ? cpu : gpu;
  });
  expect([choice.device, probed]).toEqual(["cuda", ["cpu", "cuda"]]);
  await expect(choose("cuda", { failure: "cannot load" })).rejects.toThrow(/DEVICE=cuda.*cannot load.*DEVICE=webgpu/);
});

test("the CPU is taken without any probe", async () => {
  for (const format of weightFormats) {
    expect(await chooseDevice("cpu", format, unprobed)).toEqual({ device: "cpu", warning: null });
  }
});

test.each(weightFormats.filter((format) => format !== "fp32"))("%s is the CPU's", async (format) => {
  expect(await chooseDevice("auto", format, unprobed)).toEqual({ device: "cpu", warning: null });
  await expect(chooseDevice("webgpu", format, unprobed)).rejects.toThrow(`not ${format}`);
});
