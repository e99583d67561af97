/** `npm run deploy -- --dry-run` and its gate `deploy:check` on this tree: the Worker that would be deployed is small and starts. */
import { spawn } from "node:child_process";
import path from "node:path";
import { beforeAll, expect, test, vi } from "vitest";
import { deploy } from "../../infra/deploy/deploy.ts";
import { readEnvironment } from "../../infra/deploy/environment.ts";
import { gatesOf } from "../../infra/deploy/gates.ts";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import { serve } from "../support/loopback.ts";
import { outcomeOf } from "../support/outcome.ts";
import { smallBase } from "../support/small-base.ts";

async function check(...args: string[]) {
  const script = path.join(import.meta.dirname, "../../infra/deploy-check.ts");
  const ended = await outcomeOf(spawn(process.execPath, [script, ...args], { stdio: ["ignore", "pipe", "pipe"] }));
  console.log(ended);
  return ended;
}

beforeAll(() => stageArtifacts(smallBase));

test("a dry run of a production deployment passes its gates, prints both figures and calls no API", async () => {
  let calls = 0;
  const api = await serve((_, response) => {
    calls++;
    response.writeHead(500).end();
  });
  vi.stubEnv("CLOUDFLARE_API_BASE_URL", api);
  vi.stubEnv("CLOUDFLARE_API_TOKEN", "token-of-nobody");
  vi.stubEnv("CLOUDFLARE_ACCOUNT_ID", "0".repeat(32));
  const said: string[] = [];
  const write = vi.spyOn(process.stderr, "write").mockImplementation((text) => said.push(String(text)) > 0);
  const environment = readEnvironment(path.join(import.meta.dirname, "../../wrangler.toml"), "production");
  // The gates for the tests and the documents site are left out: a test should not run all tests, and the site has its own.
  const gates = gatesOf(environment).filter(({ name }) => name === "staged assets" || name === "size and start");
  const options = { dryRun: true, yes: false };
  const deployed = await deploy(environment, options, gates, new AbortController().signal).finally(() => {
    write.mockRestore();
    vi.unstubAllEnvs();
    console.log(said.join(""));
  });
  expect([deployed, calls]).toEqual([null, 0]);
  expect(Number(/gzip ([\d.]+) kB/.exec(said.join(""))?.[1])).toBeGreaterThan(10);
  expect(said.join("")).toMatch(/^start +\d+ ms to the first answer {2}ok$/m);
});

test("a Worker over its limit fails the check, and the limit is named", async () => {
  const { stdout, code } = await check("--gzip-bytes", "1000");
  expect(code).toBe(1);
  expect(stdout).toContain("of at most 1.0 kB  TOO MUCH");
});
