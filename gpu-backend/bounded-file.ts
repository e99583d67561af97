/** Reads untrusted files up to a size limit, and files that may be missing. Not here: checks of the content. */
import { constants, open } from "node:fs/promises";

/**
 * Returns at most `mostBytes + 1` bytes, so the caller can detect an oversized file. Rejects with an Error if it is not a
 * regular file; opening a pipe does not block.
 */
export async function readFileAtMost(path: string, mostBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  // Windows has no O_NONBLOCK.
  const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  try {
    const about = await file.stat();
    if (!about.isFile()) throw new Error(`${path} is not a file`);
    const bytes = new Uint8Array(Math.min(about.size, mostBytes + 1));
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
