import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { beforeEach, expect, test } from "vitest";
import { stageArtifacts } from "../../../infra/stage-artifacts.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const names = ["edge-table.safetensors", "tokenizer.safetensors", "manifest.json"];
let model: string;
let target: string;

beforeEach(async () => {
  const folder = temporaryFolder();
  model = path.join(folder, "model");
  target = path.join(folder, "public/artifacts");
  await mkdir(path.join(model, "artifacts"), { recursive: true });
  for (const name of [...names, "hyper-network.safetensors"])
    await writeFile(path.join(model, "artifacts", name), name);
});

test("copies what the edge needs and nothing else, the manifest last; later only what differs", async () => {
  expect(await stageArtifacts(model, target)).toEqual(names);
  expect((await readdir(target)).sort()).toEqual([...names].sort());
  for (const name of names) expect(await readFile(path.join(target, name), "utf8")).toBe(name);
  const before = await stat(path.join(target, "manifest.json"));
  await writeFile(path.join(model, "artifacts/tokenizer.safetensors"), "changed");
  expect(await stageArtifacts(model, target)).toEqual(["tokenizer.safetensors"]);
  expect(await readFile(path.join(target, "tokenizer.safetensors"), "utf8")).toBe("changed");
  expect((await stat(path.join(target, "manifest.json"))).mtimeMs).toBe(before.mtimeMs);
});

test("names the artifact that is missing", async () => {
  await rm(path.join(model, "artifacts/manifest.json"));
  await expect(stageArtifacts(model, target)).rejects.toThrow(/artifacts\/manifest\.json/);
});
