/** Refuses an import that does not fit on the disk before its folder is made. */
import { existsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";

/** Throws an Error of one line if the disk of `folder`, which may not exist yet, has less than `bytes` free. */
export async function requireFreeSpace(folder: string, bytes: number): Promise<void> {
  let existing = resolve(folder);
  while (!existsSync(existing)) existing = dirname(existing);
  const disk = await statfs(existing).catch(() => null);
  // Some network file systems report no size.
  if (!disk || disk.blocks === 0) return;
  const free = disk.bavail * disk.bsize;
  if (bytes <= free) return;
  throw new Error(`no space for the model in ${folder}: it needs ${bytes} bytes, and ${free} are free`);
}
