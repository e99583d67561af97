/** The test projects: where each kind of test runs, how long it may take, and which may run side by side. */
import { availableParallelism } from "node:os";
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // Vitest leaves a core to itself, which is half of a machine of two.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    projects: [
      { test: { name: "unit", include: ["test/unit/**/*.test.ts", "test/fuzz/**/*.test.ts"], testTimeout: 20_000 } },
      { test: { name: "parity", include: ["test/parity/**/*.test.ts"], testTimeout: 60_000, hookTimeout: 60_000 } },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        plugins: [
          cloudflareTest({
            wrangler: { configPath: "./wrangler.toml" },
            miniflare: { bindings: { BACKEND_SECRETS: "in-runtime-0123456789abcdef0123456789" } },
          }),
        ],
        test: { name: "edge", include: ["test/in-runtime/**/*.test.ts"], testTimeout: 20_000 },
      },
      {
        test: {
          name: "commands",
          include: ["test/commands/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // Whole servers, of which nothing is timed: side by side, but not beside property tests with their short timeout.
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // Whole servers, timed: never beside other tests.
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
          // Whole servers under attack, with latency and memory as the judges: never beside other tests.
          fileParallelism: false,
          sequence: { groupOrder: 4 },
        },
      },
    ],
  },
});
