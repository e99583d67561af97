/** The engine's allocator gives huge pages to weights. Keys and values, whose arrays are written little by little, must have none. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { childEnvironment } from "../../../../gpu-backend/config.ts";

const setting = "/sys/kernel/mm/transparent_hugepage/enabled";
const areAsked = process.platform === "linux" && readFileSync(setting, "utf8").includes("[madvise]");

const source = `
  import { readFileSync } from "node:fs";
  import { KvMemory } from "./kv-memory.ts";
  const arrays = Array.from({ length: 4 }, () => ({ heads: 3, width: 64, bytes: 1 as const }));
  const shape = { arrays, contextTokens: 2048, maximumRows: 32, maximumBytes: 32 * 2048 * 4 * 3 * 64 };
  const hugeKilobytes = () => Number(/^AnonHugePages: +(\\d+)/m.exec(readFileSync("/proc/self/smaps_rollup", "utf8"))[1]);
  const before = hugeKilobytes();
  const memory = new KvMemory(shape);
  // Writes whole arrays: an array may start in the middle of a huge page, so its first bytes alone might touch none.
  for (const array of memory.arrays) array.fill(1);
  const taken = hugeKilobytes() - before;
  const plain = new Int8Array(memory.arrays[0].length).fill(1);
  console.log(JSON.stringify({ taken, ofWeights: hugeKilobytes() - before - taken, length: plain.length }));`;

test.skipIf(!areAsked)("keys and values take no huge pages where the allocator's arrays do", () => {
  const cwd = path.join(import.meta.dirname, "../../../../gpu-backend/kv");
  const options = {
    cwd,
    env: childEnvironment({ PATH: process.env.PATH, NODE_NO_WARNINGS: "1" }),
    encoding: "utf8",
  } as const;
  const { taken, ofWeights } = JSON.parse(
    execFileSync(process.execPath, ["--input-type=module-typescript", "-e", source], options),
  );
  expect(ofWeights).toBeGreaterThan(0);
  expect(taken).toBe(0);
});
