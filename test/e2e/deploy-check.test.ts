/** `npm run deploy -- --dry-run` and its gate `deploy:check` on this tree: the Worker that would be deployed is small and starts quickly. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { text } from "node:stream/consumers";
import { beforeAll, expect, test } from "vitest";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";

async function run(file: string, args: string[], variables = {}) {
  const script = path.join(import.meta.dirname, "../../infra", file);
  const env = { ...process.env, ...variables };
  const child = spawn(process.execPath, [script, ...args], { stdio: ["ignore", "pipe", "pipe"], env });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  console.log(stdout + stderr);
  return { stdout, stderr, code };
}

beforeAll(() => stageArtifacts());

test("a dry run of a production deployment passes every gate, prints both figures and calls no API", async () => {
  let calls = 0;
  const api = createServer((_, response) => {
    calls++;
    response.writeHead(500).end();
  });
  await once(api.listen(0, "127.0.0.1"), "listening");
  const args = ["--env", "production", "--dry-run", "--tests", "passed-in-ci"];
  const { stdout, stderr, code } = await run("deploy/cli.ts", args, {
    CI: "true",
    CLOUDFLARE_API_BASE_URL: `http://127.0.0.1:${(api.address() as AddressInfo).port}`,
    CLOUDFLARE_API_TOKEN: "token-of-nobody",
    CLOUDFLARE_ACCOUNT_ID: "0".repeat(32),
  });
  api.close();
  expect([code, calls, stdout], stderr).toEqual([0, 0, ""]);
  expect(Number(/gzip ([\d.]+) kB/.exec(stderr)?.[1])).toBeGreaterThan(10);
  expect(Number(/startup +([\d.]+) x/.exec(stderr)?.[1])).toBeGreaterThan(0);
});

test("a Worker over its limits fails the check, and each limit is named", async () => {
  const { stdout, code } = await run("deploy-check.ts", ["--gzip-bytes", "1000", "--start-ratio", "0.01"]);
  expect(code).toBe(1);
  expect(stdout).toContain("of at most 1.0 kB  TOO MUCH");
  expect(stdout).toContain("of at most 0.01 x  TOO MUCH");
});
