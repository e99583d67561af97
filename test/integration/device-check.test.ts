/** The check of a device at start, with this machine's Vulkan, and with the loader or the driver missing. Linux only. */
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { childEnvironment } from "../../gpu-backend/config.ts";
import { checkDevice } from "../../gpu-backend/host/device-check.ts";
import { readBaseConfig } from "../../gpu-backend/models/base.ts";
import type { DeviceFigures } from "../bench/device.ts";
import { smallBase } from "../support/small-base.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const folder = temporaryFolder();
const isAbsent = await webgpuFailure();
const check = (settings: { device: "webgpu" | "software"; isDeviceRequired?: boolean }, environment = {}) =>
  checkDevice(
    {
      ...{ modelDirectory: smallBase, weightFormat: "fp32", threads: 1, isDeviceRequired: false },
      ...settings,
    },
    { ...childEnvironment(), ...environment },
  );

test.runIf(process.platform === "linux")("names a loader that is missing, and a driver", async () => {
  // The dynamic linker finds this file in place of the Vulkan loader, but the file is no library.
  writeFileSync(path.join(folder, "libvulkan.so.1"), "");
  const noLoader = await check({ device: "webgpu" }, { LD_LIBRARY_PATH: folder });
  expect(noLoader).toMatchObject({ name: "cpu", adapter: null, found: expect.stringMatching(/no Vulkan loader/) });
  const required = check({ device: "webgpu", isDeviceRequired: true }, { VK_ICD_FILENAMES: "/none" });
  await expect(required).rejects.toThrow(/^REQUIRE_DEVICE=webgpu: the Vulkan loader finds no driver|no Vulkan loader/);
});

test.skipIf(isAbsent)("takes a software adapter only where it was asked for", async () => {
  expect(await check({ device: "webgpu" })).toMatchObject({ name: "cpu", selfTest: "refused" });
  const report = await check({ device: "software", isDeviceRequired: true });
  expect(report).toMatchObject({
    name: "webgpu",
    selfTest: "passed",
    found: expect.stringMatching(/^a software adapter/),
  });
  expect(report.driver).toContain("libvulkan_lvp");
});

test.skipIf(isAbsent)("takes the result of a process that prints other lines, and that its driver ends", async () => {
  const driver = path.join(folder, "driver.mjs");
  const atEnd =
    'process.on("exit", () => { process.stdout.write("at the end\\n"); process.kill(process.pid, "SIGKILL"); })';
  writeFileSync(driver, `process.stdout.write("loaded"); ${atEnd};`);
  const report = await check({ device: "software", isDeviceRequired: true }, { NODE_OPTIONS: `--import=${driver}` });
  expect(report.selfTest).toBe("passed");
});

test("refuses a format that only the CPU serves, and one that only devices serve", async () => {
  const options = { modelDirectory: smallBase, threads: 1, isDeviceRequired: false };
  const int8 = { ...options, weightFormat: "int8" as const, device: "webgpu" as const };
  await expect(checkDevice(int8, {})).rejects.toThrow(/WEIGHT_FORMAT=fp32 or fp16 or exact, not int8/);
  const fp16 = { ...options, weightFormat: "fp16" as const };
  await expect(checkDevice({ ...fp16, device: "cpu" }, {})).rejects.toThrow(/fp16 is for devices/);
  const noDriver = { ...childEnvironment(), VK_ICD_FILENAMES: "/none" };
  await expect(checkDevice({ ...fp16, device: "webgpu" }, noDriver)).rejects.toThrow(/fp16 needs a device: /);
});

test.skipIf(isAbsent)(
  "the bench of a device measures each row beside the floor of the base it serves",
  async () => {
    const bench = path.join(import.meta.dirname, "../bench/main.ts");
    const json = path.join(folder, "figures.json");
    const options = ["--device", "software", "--quick", "--json", json];
    const { stdout } = await promisify(execFile)(process.execPath, [bench, ...options]);
    expect(stdout).toMatch(/^a copy moves .* GB\/s.*\nfp32 on llvmpipe.*a software adapter.*\n/);
    const { rows, bytesPerMs } = JSON.parse(readFileSync(json, "utf8")) as DeviceFigures;
    // The floor counts 1,779,712 parameters, and keys and values of 4 rows of 64 positions in 6 layers of width 128, at 4 bytes each.
    const decode = rows.filter(({ name }) => name === "decode 4 x 64").map(({ floorMs }) => floorMs * bytesPerMs);
    const bytes = 4 * (1_779_712 + 4 * 64 * 2 * 6 * 128);
    expect(decode[0]).toBeCloseTo(bytes, 0);
    // In fp16 all but the embedding, which is the head, takes half as many.
    const { vocabularySize, hiddenSize } = (await readBaseConfig(smallBase)).model;
    expect(decode[1]).toBeCloseTo((bytes + 4 * vocabularySize * hiddenSize) / 2, 0);
    for (const { ms, floorMs } of rows) expect(ms).toBeGreaterThan(floorMs);
    expect(rows).toHaveLength(16);
  },
  300_000,
);
