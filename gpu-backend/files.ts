import * as fs from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

/** Returns at most `maxBytes + 1` bytes, to detect an oversized file. Rejects for a file that is not regular, such as a pipe. */
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

export function nullIfMissing(error: NodeJS.ErrnoException): null {
  if (error.code === "ENOENT") return null;
  throw error;
}

export type WriteSystem = Pick<typeof fs, "mkdir" | "mkdtemp" | "open" | "rename" | "rm">;

export const unfinishedPrefix = ".unfinished-";

/** Replaces a file as a whole. If the write fails, the old file is unchanged. */
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

export async function writeIfDifferent(path: string, content: Uint8Array): Promise<boolean> {
  if ((await fs.readFile(path).catch(() => null))?.equals(content)) return false;
  await writeWhole(path, content);
  return true;
}

/** Removes what killed processes began to write before `beforeMs` (Unix milliseconds). Ignores errors. */
export async function removeUnfinished(folder: string, beforeMs: number, system: WriteSystem = fs): Promise<void> {
  for (const name of await fs.readdir(folder).catch(() => [])) {
    if (!name.startsWith(unfinishedPrefix)) continue;
    const path = join(folder, name);
    const about = await fs.stat(path).catch(() => null);
    if (!about || about.mtimeMs >= beforeMs) continue;
    await system.rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}
