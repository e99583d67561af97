import { execFileSync } from "node:child_process";
import { mkdir, open, readdir, utimes, writeFile } from "node:fs/promises";
import path from "node:path";
import { expect, test } from "vitest";
import { readFileAtMost, removeUnfinished } from "../../../gpu-backend/files.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const folder = temporaryFolder();

test("a file is read to its end, or one byte past the bound", async () => {
  const file = path.join(folder, "four");
  await writeFile(file, Uint8Array.of(1, 2, 3, 4));
  for (const most of [4, 5, 1e9]) expect(await readFileAtMost(file, most)).toEqual(Uint8Array.of(1, 2, 3, 4));
  expect(await readFileAtMost(file, 2)).toEqual(Uint8Array.of(1, 2, 3));
  expect(await readFileAtMost(file, 0)).toEqual(Uint8Array.of(1));
});

test("a file of a terabyte takes no more memory than the bound", async () => {
  const file = path.join(folder, "sparse");
  const handle = await open(file, "w");
  await handle.truncate(2 ** 40);
  await handle.close();
  const bytes = await readFileAtMost(file, 1000);
  expect([bytes.length, bytes.buffer.byteLength]).toEqual([1001, 1001]);
});

test("anything but a file is refused, and a pipe that nobody writes to does not block", async () => {
  await mkdir(path.join(folder, "directory"));
  await expect(readFileAtMost(path.join(folder, "directory"), 10)).rejects.toThrow(/directory/);
  if (process.platform !== "win32") {
    execFileSync("mkfifo", [path.join(folder, "pipe")]);
    await expect(readFileAtMost(path.join(folder, "pipe"), 10)).rejects.toThrow(/pipe is not a file/);
  }
  await expect(readFileAtMost(path.join(folder, "missing"), 10)).rejects.toMatchObject({ code: "ENOENT" });
});

test("only unfinished writes that began before the given time are removed", async () => {
  const shared = path.join(folder, "shared");
  const folders = { ".unfinished-old": 99, ".unfinished-new": 100, finished: 1 };
  for (const [name, seconds] of Object.entries(folders)) {
    await mkdir(path.join(shared, name), { recursive: true });
    await utimes(path.join(shared, name), seconds, seconds);
  }
  await removeUnfinished(shared, 100_000);
  expect((await readdir(shared)).sort()).toEqual([".unfinished-new", "finished"]);
});
