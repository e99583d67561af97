/**
 * The test projects: where each kind of test runs, how long it may take, and which may run side by side. infra/commands.mjs says which
 * command runs which project.
 */
import { availableParallelism } from "node:os";
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";
import { smallBase } from "./test/support/small-base.ts";

// The processes and commands that tests start inherit these variables.
process.env.MODEL_DIR = smallBase;
process.env.WEIGHT_FORMAT = "fp32";

/** Tests of committed files rather than of running code. `npm run check` runs them. */
const lintTests = [
  "test/unit/architecture.test.ts",
  ...[
    "alerts",
    "deployment",
    "document-commands",
    "documents",
    "hygiene",
    "images",
    "kubernetes",
    "openapi",
    "site",
  ].map((name) => `test/unit/infra/${name}.test.ts`),
  "test/unit/infra/workflows.test.ts",
];
/** Property tests that take too long for `npm test`. */
const slowFuzzTests = "test/fuzz/**/*.slow.test.ts";
/** Compares the embedded base in every format with PyTorch, which takes a minute and a half. */
const formatTests = "test/parity/smollm2.test.ts";
/** Tests of the device runner. On a software adapter they take minutes. */
const deviceTests = ["test/parity/webgpu.test.ts", "test/integration/device-check.test.ts"];

export default defineConfig({
  test: {
    // Only failed tests show their output.
    silent: "passed-only",
    // By default Vitest leaves a core free for itself, which is half of a machine of two cores.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    projects: [
      { test: { name: "lint", include: lintTests, testTimeout: 60_000 } },
      {
        test: {
          name: "unit",
          include: ["test/unit/**/*.test.ts", "test/fuzz/**/*.test.ts"],
          exclude: [...lintTests, slowFuzzTests],
          testTimeout: 20_000,
        },
      },
      { test: { name: "fuzz", include: [slowFuzzTests], testTimeout: 120_000 } },
      {
        test: {
          name: "parity",
          include: ["test/parity/**/*.test.ts"],
          exclude: [formatTests, ...deviceTests],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      { test: { name: "formats", include: [formatTests] } },
      {
        test: {
          name: "device",
          globalSetup: "test/support/staged-assets.ts",
          include: [...deviceTests, "test/integration/backend-engine.test.ts"],
          // The engine's tests then run on the device instead of the CPU.
          env: { TEST_DEVICE: "software" },
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: "integration",
          globalSetup: "test/support/staged-assets.ts",
          include: ["test/integration/**/*.test.ts"],
          exclude: deviceTests,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        plugins: [
          cloudflareTest({
            wrangler: { configPath: "./wrangler.toml" },
            miniflare: { bindings: { BACKEND_SECRETS: "in-runtime-0123456789abcdef0123456789" } },
            // workerd would log each connection that a test breaks off as an uncaught exception.
            verbose: false,
          }),
        ],
        test: {
          name: "edge",
          globalSetup: "test/support/staged-assets.ts",
          include: ["test/in-runtime/**/*.test.ts"],
          setupFiles: "test/in-runtime/network.ts",
          testTimeout: 20_000,
        },
      },
      {
        test: {
          name: "smoke",
          include: ["test/smoke/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // These tests start a whole server. They do not run beside property tests, whose timeout is short.
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "commands",
          globalSetup: "test/support/staged-assets.ts",
          include: ["test/commands/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // These tests start whole servers, but time nothing: they run side by side, but not beside property tests with short timeouts.
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "e2e",
          globalSetup: "test/support/shared-stack.ts",
          include: ["test/e2e/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // These tests time whole servers, so they never run beside other tests.
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          name: "fault",
          include: ["test/fault/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          sequence: { groupOrder: 3 },
        },
      },
      {
        test: {
          name: "abuse",
          include: ["test/abuse/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // These tests attack whole servers, and judge by latency and memory, so they never run beside other tests.
          fileParallelism: false,
          sequence: { groupOrder: 4 },
        },
      },
    ],
  },
});
