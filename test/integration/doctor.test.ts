/** `chameleon doctor` names each fault and how to mend it, and exits with 1. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, truncate } from "node:fs/promises";
import { createServer } from "node:net";
import path from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import type { Check } from "../../infra/doctor/cli.ts";
import { smallBase } from "../support/small-base.ts";
import { freePorts } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const cli = fileURLToPath(new URL("../../infra/doctor/cli.ts", import.meta.url));

const folder = temporaryFolder();
const [EDGE_PORT, BACKEND_PORT] = (await freePorts(2)).map(String);

async function doctor(env: Record<string, string> = {}, ...args: string[]) {
  const child = spawn(process.execPath, [cli, "--json", ...args], {
    env: { ...process.env, STATE_DIR: path.join(folder, "state"), EDGE_PORT, BACKEND_PORT, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [output, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
  const checks = JSON.parse(output) as Check[];
  return { code, checks, failed: checks.filter(({ state }) => state === "failed") };
}

test("finds no fault in a fresh clone", async () => {
  const { code, checks, failed } = await doctor();
  expect([code, failed]).toEqual([0, []]);
  expect(checks.map(({ name }) => name)).toEqual(["memory", "ports", "model", "artifacts", "device"]);
});

test("names a file that was cut off, and how to mend it", async () => {
  const model = path.join(folder, "cut-off");
  await cp(smallBase, model, { recursive: true });
  await truncate(path.join(model, "artifacts/edge-table.safetensors"), 1000);
  const { code, failed, checks } = await doctor({ KV_BYTES: String(2 ** 40) }, "--model", model);
  expect(code).toBe(1);
  // KV_BYTES is 1 TiB here, more memory than this machine has.
  expect(checks[0]).toMatchObject({ name: "memory", state: "warning", mend: expect.stringContaining("KV_BYTES") });
  const found = expect.stringContaining("edge-table.safetensors");
  const mend = expect.stringContaining("chameleon train");
  expect(failed).toEqual([{ name: "artifacts", state: "failed", found, mend }]);
});

test("names a port that is taken, a model that is missing, and an invalid setting", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void taken.close());
  await once(taken, "listening");
  const { port } = taken.address() as { port: number };
  const { code, failed } = await doctor({ EDGE_PORT: String(port), MODEL_DIR: path.join(folder, "none") });
  expect(code).toBe(1);
  expect(failed.map(({ name }) => name)).toEqual(["memory", "ports", "model", "artifacts"]);
  expect(failed[1].found).toBe(`port ${port} is in use; set EDGE_PORT to another`);
  for (const { mend } of failed) expect(mend).toBeTruthy();
  expect((await doctor({ DEVICE: "tpu" })).failed[0].found).toContain('DEVICE is "tpu"');
});
