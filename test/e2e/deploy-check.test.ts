/** `npm run deploy:check` on this tree: the Worker that would be deployed is small and starts quickly. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { text } from "node:stream/consumers";
import { beforeAll, expect, test } from "vitest";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";

async function check(...args: string[]) {
  const script = path.join(import.meta.dirname, "../../infra/deploy-check.ts");
  const child = spawn(process.execPath, [script, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
  console.log(stdout);
  return { stdout, code };
}

beforeAll(() => stageArtifacts());

test("the Worker is within its limits, and both figures are printed", async () => {
  const { stdout, code } = await check();
  expect(code, stdout).toBe(0);
  expect(Number(/gzip ([\d.]+) kB/.exec(stdout)?.[1])).toBeGreaterThan(10);
  expect(Number(/startup +([\d.]+) x/.exec(stdout)?.[1])).toBeGreaterThan(0);
});

test("a Worker over its limits fails the check, and each limit is named", async () => {
  const { stdout, code } = await check("--gzip-bytes", "1000", "--start-ratio", "0.01");
  expect(code).toBe(1);
  expect(stdout).toContain("of at most 1.0 kB  TOO MUCH");
  expect(stdout).toContain("of at most 0.01 x  TOO MUCH");
});
