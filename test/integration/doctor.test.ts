/** `chameleon doctor` names each fault and how to mend it, and exits with 1. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, truncate } from "node:fs/promises";
import { createServer } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import type { Check } from "../../infra/doctor/cli.ts";
import { smallBase } from "../support/small-base.ts";
import { freePorts } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const cli = fileURLToPath(new URL("../../infra/doctor/cli.ts", import.meta.url));

const folder = temporaryFolder();
let ports: { EDGE_PORT: string; BACKEND_PORT: string };
beforeAll(async () => {
  const [edge, backend] = await freePorts(2);
  ports = { EDGE_PORT: String(edge), BACKEND_PORT: String(backend) };
});

async function doctor(env: Record<string, string> = {}, ...args: string[]) {
  const child = spawn(process.execPath, [cli, "--json", ...args], {
    env: { ...process.env, STATE_DIR: path.join(folder, "state"), ...ports, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (text) => (output += text));
  const [code] = await once(child, "close");
  const checks = JSON.parse(output) as Check[];
  return {
    code,
    checks,
    amiss: checks.filter(({ state }) => state === "failed"),
    names: checks.map(({ name }) => name),
  };
}

test("finds nothing amiss in a fresh clone", async () => {
  expect(await doctor()).toMatchObject({
    code: 0,
    amiss: [],
    names: ["memory", "ports", "model", "artifacts", "device"],
  });
});

test("names a file that was cut off, and the mend", async () => {
  const model = path.join(folder, "cut-off");
  await cp(smallBase, model, { recursive: true });
  await truncate(path.join(model, "artifacts/edge-table.safetensors"), 1000);
  const { code, amiss, checks } = await doctor({ KV_BYTES: String(2 ** 40) }, "--model", model);
  expect(code).toBe(1);
  // These KV_BYTES (1 TiB) are more than this machine has.
  expect(checks[0]).toMatchObject({ name: "memory", state: "warning", mend: expect.stringContaining("KV_BYTES") });
  expect(amiss).toEqual([
    {
      name: "artifacts",
      state: "failed",
      found: expect.stringContaining("edge-table.safetensors"),
      mend: expect.stringContaining("chameleon train"),
    },
  ]);
});

test("names a port that is taken, a model that is missing, and an invalid setting", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void taken.close());
  await once(taken, "listening");
  const { port } = taken.address() as { port: number };
  const { code, amiss } = await doctor({ EDGE_PORT: String(port), MODEL_DIR: path.join(folder, "none") });
  expect(code).toBe(1);
  expect(amiss.map(({ name }) => name)).toEqual(["memory", "ports", "model", "artifacts"]);
  expect(amiss[1].found).toBe(`port ${port} is in use; set EDGE_PORT to another`);
  for (const { mend } of amiss) expect(mend).toBeTruthy();
  expect((await doctor({ DEVICE: "tpu" })).amiss[0].found).toContain('DEVICE is "tpu"');
});
