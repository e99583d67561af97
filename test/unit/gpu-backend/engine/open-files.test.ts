/** No file of a GGUF model stays open after the work that opened it, whether that work succeeds or fails. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, readlinkSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { readArtifacts } from "../../../../gpu-backend/engine/artifacts.ts";
import { openModel } from "../../../../gpu-backend/engine/open-model.ts";
import { openBase } from "../../../../gpu-backend/models/base.ts";
import { writeGgufModel } from "../../../support/gguf-model.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";

let folder: string;
let gguf: string;
beforeEach(async () => {
  folder = temporaryFolder();
  gguf = join(folder, "model.gguf");
  await writeGgufModel(folder);
});

/** Linux alone lists a process's open files. */
const onLinux = test.skipIf(process.platform !== "linux");
function openFiles(): string[] {
  const links = readdirSync("/proc/self/fd").map((handle) => {
    try {
      return readlinkSync(join("/proc/self/fd", handle));
    } catch {
      return ""; // the handle of this listing itself, closed by now
    }
  });
  return links.filter((link) => link.startsWith(folder));
}

const settings = (): Parameters<typeof openModel>[0] => ({
  ...{ modelDirectory: folder, artifactsDirectory: join(folder, "artifacts") },
  ...{ threads: 1, weightFormat: "int8" },
});
const clock = () => performance.now();

onLinux("artifacts that are refused close the model; those that are read leave it to the caller", async () => {
  const { model } = await readArtifacts(folder);
  expect(openFiles()).toEqual([gguf]);
  model.close();
  expect(openFiles()).toEqual([]);
  rmSync(join(folder, "artifacts/hyper-network.safetensors"));
  await expect(readArtifacts(folder)).rejects.toThrow("hyper-network.safetensors");
  expect(openFiles()).toEqual([]);
});

onLinux("a session is opened over a model that is closed; so is one whose graph cannot be built", async () => {
  const { runner, warnings } = await openModel(settings(), clock);
  expect(openFiles()).toEqual([]);
  expect(warnings).toEqual([expect.stringContaining("smoothing.safetensors")]);
  await runner.release();
  writeFileSync(join(folder, "smoothing.safetensors"), "none");
  await expect(openModel(settings(), clock)).rejects.toThrow("smoothing.safetensors");
  expect(openFiles()).toEqual([]);
});

test("the hash is of the file that was opened, also when another one gets its name meanwhile", async () => {
  const bytes = readFileSync(gguf);
  const half = bytes.length >> 1;
  rmSync(gguf);
  writeFileSync(`${gguf}.part-1`, bytes.subarray(0, half));
  writeFileSync(`${gguf}.part-2`, bytes.subarray(half));
  writeFileSync(join(folder, "other"), "other");
  const opening = openBase(folder);
  renameSync(join(folder, "other"), `${gguf}.part-2`);
  const { weightsHash, close } = await opening;
  close();
  expect(weightsHash).toBe(createHash("sha256").update(bytes).digest("hex"));
});
