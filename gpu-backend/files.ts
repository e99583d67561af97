/**
 * Reads untrusted files up to a size limit, and writes files in one step: a reader sees the old bytes or the new ones, never
 * half of them. New bytes are first written to a folder of their own beside the file, which is removed when the write fails,
 * and by `removeUnfinished` when its process was killed.
 */
import * as fs from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

/**
 * Returns at most `maxBytes + 1` bytes, so the caller can detect an oversized file. Rejects with an Error if it is not a
 * regular file; opening a pipe does not block.
 */
export async function readFileAtMost(path: string, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  // Windows has no O_NONBLOCK.
  const file = await fs.open(path, fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0));
  try {
    const about = await file.stat();
    if (!about.isFile()) throw new Error(`${path} is not a file`);
    const bytes = new Uint8Array(Math.min(about.size, maxBytes + 1));
    let length = 0;
    while (length < bytes.length) {
      const { bytesRead } = await file.read(bytes, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    return bytes.subarray(0, length);
  } finally {
    await file.close();
  }
}

/** For `catch`: null if the file does not exist. Throws every other error. */
export function nullIfMissing(error: NodeJS.ErrnoException): null {
  if (error.code === "ENOENT") return null;
  throw error;
}

/** The functions of the file system that a test can replace. */
export type WriteSystem = Pick<typeof fs, "mkdir" | "mkdtemp" | "open" | "rename" | "rm">;

export const unfinishedPrefix = ".unfinished-";

/** Creates the file's folder if it is missing. Rejects with the system's error, and leaves the old file unchanged. */
export async function writeWhole(
  path: string,
  content: Uint8Array | string,
  { mode = 0o666, system = fs }: { mode?: number; system?: WriteSystem } = {},
): Promise<void> {
  const folder = dirname(resolve(path));
  await system.mkdir(folder, { recursive: true });
  const unfinished = await system.mkdtemp(join(folder, unfinishedPrefix));
  try {
    const written = join(unfinished, basename(path));
    const file = await system.open(written, "w", mode);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await system.rename(written, path);
  } finally {
    await system.rm(unfinished, { recursive: true, force: true });
  }
}

/** Writes the file unless it has these bytes already. Resolves to whether it was written. */
export async function writeIfDifferent(path: string, content: Uint8Array): Promise<boolean> {
  if ((await fs.readFile(path).catch(() => null))?.equals(content)) return false;
  await writeWhole(path, content);
  return true;
}

/**
 * Removes what killed processes left of their writes to files of `folder`, which may be missing, as far as the disk allows.
 * Writes that began at or after `beforeMs` (Unix milliseconds) may be running and stay.
 */
export async function removeUnfinished(folder: string, beforeMs: number, system: WriteSystem = fs): Promise<void> {
  for (const name of await fs.readdir(folder).catch(() => [])) {
    if (!name.startsWith(unfinishedPrefix)) continue;
    const path = join(folder, name);
    const about = await fs.stat(path).catch(() => null);
    if (!about || about.mtimeMs >= beforeMs) continue;
    await system.rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}
