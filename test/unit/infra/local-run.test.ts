/** What a local start leaves for other commands: for its user alone, and only while it runs. */
import { spawnSync } from "node:child_process";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { type LocalRun, readLocalRun, writeLocalRun } from "../../../infra/local-run.ts";

const run: LocalRun = {
  ...{ pid: process.pid, edge: "http://127.0.0.1:1", key: "k", backends: ["http://127.0.0.1:2"] },
  ...{ backendSecrets: "s".repeat(32), modelDirectory: null },
};

test("only its user reads it, and nobody once its process is gone", async () => {
  const folder = await mkdtemp(path.join(tmpdir(), "run-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const file = path.join(folder, "run.json");
  expect(readLocalRun(folder)).toBeNull();
  // Whatever was there before, others could read it.
  await writeFile(file, "{}", { mode: 0o644 });
  await writeLocalRun(folder, run);
  expect(readLocalRun(folder)).toEqual(run);
  expect((await stat(file)).mode & 0o777).toBe(0o600);

  const { pid } = spawnSync(process.execPath, ["--version"]);
  await writeFile(file, JSON.stringify({ ...run, pid }));
  expect(readLocalRun(folder)).toBeNull();
  await writeFile(file, "not JSON");
  expect(readLocalRun(folder)).toBeNull();
});
