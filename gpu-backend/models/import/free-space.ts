/** Refuses an import that does not fit on the disk before its folder is made. */
import { existsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";

/** Throws an Error of one line if files of these bytes do not fit on the disk of `folder`, which may not exist yet. */
export async function requireFreeSpace(folder: string, bytes: readonly number[]): Promise<void> {
  let existing = resolve(folder);
  // A missing drive of Windows is its own parent folder.
  while (!existsSync(existing) && existing !== dirname(existing)) existing = dirname(existing);
  const disk = await statfs(existing).catch(() => null);
  // Some network file systems report no size.
  if (!disk || disk.blocks === 0) return;
  const free = disk.bavail * disk.bsize;
  const needed = bytes.reduce((sum, one) => sum + one, 0);
  if (needed <= free) return;
  throw new Error(`no space for the model in ${folder}: it needs ${needed} bytes, and ${free} are free`);
}
