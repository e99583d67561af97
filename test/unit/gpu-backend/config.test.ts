import { expect, test } from "vitest";
import { childEnvironment, environmentSchema, readConfig } from "../../../gpu-backend/config.ts";

test("an empty environment gives a backend on loopback with the embedded model", () => {
  const config = readConfig({});
  expect(config).toMatchObject({ host: "127.0.0.1", port: 8788, weightFormat: "int8", maxSequences: 32 });
  expect(config.modelDirectory).toMatch(/gpu-backend\/models\/smollm2-135m$/);
  expect(config.threads).toBeGreaterThan(0);
});

test("variables are read as numbers", () => {
  const config = readConfig({ BACKEND_PORT: "0", DRAIN_MS: "0", THREADS: "3", STEP_TOKENS: "128" });
  expect(config).toMatchObject({ port: 0, drainMs: 0, threads: 3, stepTokens: 128 });
});

test.each([
  ["BACKEND_PORT", "70000"],
  ["BACKEND_PORT", "http"],
  ["MAX_SEQUENCES", "0"],
  ["MAX_QUEUE", "1.5"],
  ["STEP_TOKENS", "127"],
  ["THREADS", "-1"],
  ["THREADS", ""],
  ["WEIGHT_FORMAT", "fp8"],
  ["DEVICE", "tpu"],
])("%s=%s is refused by name and value", (name, value) => {
  expect(() => readConfig({ [name]: value })).toThrow(new RegExp(`${name} is "${value}"`));
});

test("every variable at fault is named", () => {
  expect(() => readConfig({ THREADS: "x", DRAIN_MS: "y" })).toThrow(/THREADS.*DRAIN_MS/);
});

test("child processes inherit what the system reads, and neither settings nor secrets", () => {
  const foreign = ["AWS_SESSION_TOKEN", "HF_TOKEN", "NODE_AUTH_TOKEN", "CLOUDFLARE_API_TOKEN", "HTTPS_PROXY"];
  const given = Object.fromEntries([...Object.keys(environmentSchema.shape), ...foreign].map((name) => [name, "x"]));
  const inherited = { PATH: "/bin", LD_LIBRARY_PATH: "/lib", NODE_OPTIONS: "--no-warnings", CUDA_VISIBLE_DEVICES: "0" };
  const { GLIBC_TUNABLES, ...environment } = childEnvironment({ ...given, ...inherited });
  expect(environment).toEqual(inherited);
  expect(GLIBC_TUNABLES).toContain("hugetlb=1");
  expect(childEnvironment({ GLIBC_TUNABLES: "" })).toEqual({ GLIBC_TUNABLES: "" });
});
