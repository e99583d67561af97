/** Reads a file that somebody else wrote. Not here: what may be in it. */
import { constants, open } from "node:fs/promises";

/**
 * `mostBytes + 1` bytes of it at most: who reads them refuses what has the one too many. Rejects with an Error where it is
 * no regular file; a pipe is not waited for.
 */
export async function readFileAtMost(path: string, mostBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  // Windows has no such flag.
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
