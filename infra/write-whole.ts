/** Writes a file in one step, where it differs: nobody ever reads half of it, and who is cut off leaves the old one. */
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import path from "node:path";

/** Whether it was written; with a `mode` it always is. Its folder is made where it is missing. */
export async function writeWhole(file: string, wanted: Uint8Array, mode?: number): Promise<boolean> {
  if (mode === undefined && (await readFile(file).catch(() => null))?.equals(wanted)) return false;
  await mkdir(path.dirname(path.resolve(file)), { recursive: true });
  // A name of its own, as two may be at it at once.
  const unfinished = `${file}.${randomUUID()}`;
  await writeFile(unfinished, wanted, { mode });
  await rename(unfinished, file);
  return true;
}
