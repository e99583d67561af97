/** Weights are hashed once, and again after a file was changed or replaced. */
import { readdirSync, readFileSync, renameSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { readArtifacts } from "../../../../gpu-backend/engine/artifacts.ts";
import { hashOfParts } from "../../../../gpu-backend/models/base.ts";
import { openPartFiles } from "../../../../gpu-backend/models/gguf/part-files.ts";
import { recordedHash } from "../../../../gpu-backend/models/weights-record.ts";
import { writeGgufModel } from "../../../support/gguf-model.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";

let folder: string;
let weights: string;
let part: string;
beforeEach(() => {
  folder = temporaryFolder();
  weights = join(folder, "model.gguf");
  part = `${weights}.part-2`;
  writeFileSync(`${weights}.part-1`, "first");
  writeFileSync(part, "second");
});

/** A time long enough after any change that a file's modification time is trusted. */
const later = () => Date.now() + 60_000;
/** The hash, and how often the files were read for it. */
async function hashed(now = later, during = () => {}): Promise<[hash: string, reads: number]> {
  const file = openPartFiles(weights);
  let reads = 0;
  const hash = (opened: typeof file) => {
    reads++;
    during();
    return hashOfParts(opened);
  };
  try {
    return [await recordedHash(file, { folder: join(folder, "data"), now }, hash), reads];
  } finally {
    file.close();
  }
}

test("the second start reads nothing of the weights", async () => {
  const [hash, reads] = await hashed();
  expect(reads).toBe(1);
  expect(await hashed()).toEqual([hash, 0]);
  expect(readdirSync(join(folder, "data"))).toEqual(["weights.sha256"]);
});

/** Sets the modification time of the part back to that before the change. */
function keepingTime(change: () => void): void {
  const { atime, mtime } = statSync(part);
  change();
  utimesSync(part, atime, mtime);
}
function replace(): void {
  writeFileSync(join(folder, "other"), "Second");
  renameSync(join(folder, "other"), part);
}
test.each([
  ["in place", () => writeFileSync(part, "Second")],
  ["in place, with its modification time set back", () => keepingTime(() => writeFileSync(part, "Second"))],
  ["by another file of its size and modification time", () => keepingTime(replace)],
  ["by a longer one", () => writeFileSync(part, "second and more")],
])("a part that is replaced %s is hashed again", async (_, change) => {
  const [before] = await hashed();
  change();
  const [after, reads] = await hashed();
  expect(reads).toBe(1);
  expect(after).not.toBe(before);
  expect(await hashed()).toEqual([after, 0]);
});

test("files that may still change under the same time are not recorded, nor those that change while they are read", async () => {
  await hashed(Date.now);
  await hashed(later, () => writeFileSync(part, "longer than before"));
  expect((await hashed())[1]).toBe(1);
});

test.each(["", "{", "0\n", `${"0".repeat(64)}\n`])("a record that says %j costs another reading", async (text) => {
  const [hash] = await hashed();
  writeFileSync(join(folder, "data/weights.sha256"), text);
  expect(await hashed()).toEqual([hash, 1]);
});

test("weights that changed after they were recorded are refused", async () => {
  const model = join(folder, "model");
  await writeGgufModel(model);
  const record = { folder: join(folder, "data"), now: later };
  const read = async () => (await readArtifacts(model, undefined, record)).model.close();
  await read();
  await read();
  const path = join(model, "model.gguf");
  const bytes = readFileSync(path);
  bytes[bytes.length - 1] ^= 1;
  writeFileSync(path, bytes);
  await expect(read()).rejects.toThrow(/^model\.gguf: SHA-256 is [0-9a-f]{64}, manifest\.json says [0-9a-f]{64}$/);
});
