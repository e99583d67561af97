import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { existsInParts, openPartFiles } from "../../../../../gpu-backend/models/gguf/part-files.ts";
import { temporaryFolder } from "../../../../support/temporary-folder.ts";

let folder: string;
beforeEach(() => {
  folder = temporaryFolder();
});

const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * 7) & 255);

/** Writes `bytes` in parts that end at these positions. */
function writeParts(...ends: number[]): string {
  const path = join(folder, "m.gguf");
  ends.forEach((end, i) => {
    writeFileSync(`${path}.part-${i + 1}`, bytes.subarray(ends[i - 1] ?? 0, end));
  });
  return path;
}

test("reads across the ends of parts as in one file", () => {
  const path = writeParts(3, 3, 500, 1000);
  expect(existsInParts(path)).toBe(true);
  const file = openPartFiles(path);
  expect(file.bytes).toBe(1000);
  expect(file.parts).toHaveLength(4);
  for (const [at, length] of [
    [0, 1000],
    [2, 2],
    [499, 2],
    [500, 500],
    [1000, 0],
  ]) {
    expect(file.read(at, length)).toEqual(bytes.slice(at, at + length));
  }
  expect(() => file.read(999, 2)).toThrow(`${path}: 2 bytes at 999 go past its end at 1000`);
  file.close();
});

test("a whole file comes before parts", () => {
  const path = writeParts(10, 1000);
  writeFileSync(path, bytes.subarray(0, 20));
  const file = openPartFiles(path);
  expect(file.parts).toEqual([path]);
  expect(file.read(0, 20)).toEqual(bytes.slice(0, 20));
  file.close();
});

test("names what is missing", () => {
  const path = join(folder, "absent.gguf");
  expect(existsInParts(path)).toBe(false);
  expect(() => openPartFiles(path)).toThrow(`neither ${path} nor ${path}.part-1 exists`);
  expect(() => openPartFiles(folder)).toThrow(`${folder} is not a file`);
});
