/** What counts as a GPU, by the log of the Vulkan loader and the findings of the self-test. */
import { expect, test } from "vitest";
import { judgeDevice, type SelfTest, type SelfTestRun } from "../../../../gpu-backend/runtime/device.ts";

const loader = "[Vulkan Loader] INFO:           Vulkan Loader Version 1.4.309\n";
const driver =
  "[Vulkan Loader] DRIVER:         Found ICD manifest file /etc/vulkan/icd.d/nvidia_icd.json, version 1.0.1\n";
const used = (name: string, file: string) =>
  `[Vulkan Loader] DRIVER:            Using "${name}" with driver: "${file}"\n`;
const gpuLog = loader + driver + used("NVIDIA H100", "libGLX_nvidia.so.0");
const softwareLog = loader + driver + used("llvmpipe (LLVM 19.1.7, 256 bits)", "libvulkan_lvp.so");
const right: SelfTest = {
  ...{ failures: [], switchedOff: [], runTokens: 128, rowsAreIndependent: true, difference: 2e-6 },
};
const judge = (run: Partial<SelfTestRun>, setting: "webgpu" | "software" = "webgpu", isLinux = true) =>
  judgeDevice(setting, { result: right, libraries: [], failure: "", log: gpuLog, ...run }, isLinux);

test("an adapter that is right serves, and is named with the version of its driver's file", () => {
  expect(judge({ libraries: ["/lib/libc.so.6", "/lib/libGLX_nvidia.so.570.86"] })).toEqual({
    ...{ name: "webgpu", adapter: "NVIDIA H100", driver: "/lib/libGLX_nvidia.so.570.86", selfTest: "passed" },
    found: "at most 2.0e-6 from the CPU; rows do not depend on others",
    ...{ runTokens: 128, rowsAreIndependent: true },
  });
});

test("what the self-test switched off, and rows that depend on others, are said by name", () => {
  const weak = { ...right, switchedOff: ["runs of more than 31 tokens"], runTokens: 31, rowsAreIndependent: false };
  const report = judge({ result: weak });
  expect(report).toMatchObject({ selfTest: "passed", runTokens: 31, rowsAreIndependent: false });
  expect(report.found).toMatch(/switched off: runs of more than 31 tokens; rows depend on others$/);
});

test.each<[what: string, setting: "webgpu" | "software", run: Partial<SelfTestRun>, found: RegExp]>([
  ["no loader", "webgpu", { result: null, log: "", failure: "failed" }, /no Vulkan loader.*libvulkan1.*failed/],
  ["no driver", "webgpu", { result: null, log: loader }, /no driver.*NVIDIA_DRIVER_CAPABILITIES=.*graphics/],
  ["no adapter", "software", { result: null, log: loader + driver }, /no Vulkan driver has an adapter \(\/etc.*nvidia/],
  ["an unnamed adapter", "webgpu", { log: loader + driver }, /too old/],
  ["only a software adapter", "webgpu", { log: softwareLog }, /software \(llvmpipe .*DEVICE=software/],
  ["a GPU where software was asked for", "software", {}, /H100 is no software adapter/],
  ["a crash", "webgpu", { result: null, failure: "was ended by SIGSEGV" }, /self-test was ended by SIGSEGV/],
  [
    "wrong results",
    "webgpu",
    { result: { ...right, failures: ["decoding is NaN", "b"] } },
    /failed: decoding is NaN; b/,
  ],
])("%s is refused by name, and the CPU serves", (_, setting, run, found) => {
  const report = judge(run, setting);
  expect(report).toMatchObject({
    name: "cpu",
    selfTest: "refused",
    runTokens: Number.POSITIVE_INFINITY,
    rowsAreIndependent: true,
  });
  expect(report.found).toMatch(found);
});

test("a software adapter that was asked for says that it is one", () => {
  expect(judge({ log: softwareLog }, "software")).toMatchObject({
    name: "webgpu",
    adapter: expect.stringContaining("llvmpipe"),
  });
  expect(judge({ log: softwareLog }, "software").found).toMatch(/^a software adapter, not a GPU; /);
});

test("a system without a Vulkan loader is judged by the self-test alone", () => {
  expect(judge({ log: "" }, "webgpu", false)).toMatchObject({ name: "webgpu", selfTest: "passed" });
});
