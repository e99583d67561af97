/** Downloads a file of the hub into `<name>.<checksum>.partial`, or resumes. A URL names a commit, so resuming needs no If-Range. */
import { open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { checksumOf, hasChecksum } from "./checksum.ts";
import type { RemoteFile } from "./hub.ts";
import { backOffMs, type HubAccess, HubError, maxTries } from "./hub-fetch.ts";

/** A partial file stays unless its bytes are wrong. `onBytes` gets the number of bytes so far. */
export async function download(
  file: RemoteFile,
  folder: string,
  hubFetch: typeof fetch,
  access: HubAccess,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const path = join(folder, file.name);
  const partial = partialOf(path, file);
  if (!(await hasChecksum(path, file.checksum))) {
    await fetchWhole(file, partial, hubFetch, access, onBytes);
    const found = await checksumOf(partial, file.checksum.kind);
    if (found.hex !== file.checksum.hex) {
      await rm(partial);
      throw new HubError(`${file.url} has the ${found.kind} hash ${found.hex}, the hub lists ${file.checksum.hex}`);
    }
    await rename(partial, path);
  }
  onBytes(file.bytes);
  await removeOtherPartials(folder, file.name);
}

/** Bytes of a file that the folder lacks. A complete file is recognised by its size. */
export async function missingBytes(file: RemoteFile, folder: string): Promise<number> {
  const path = join(folder, file.name);
  if ((await sizeOf(path)) === file.bytes) return 0;
  return Math.max(0, file.bytes - (await sizeOf(partialOf(path, file))));
}

function partialOf(path: string, { checksum }: RemoteFile): string {
  return `${path}.${checksum.hex.slice(0, 16)}.partial`;
}

/** Gives up after `maxTries` requests in a row without any byte. */
async function fetchWhole(
  file: RemoteFile,
  partial: string,
  hubFetch: typeof fetch,
  access: HubAccess,
  onBytes: (bytes: number) => void,
): Promise<void> {
  let have = await sizeOf(partial);
  if (have > file.bytes) {
    await rm(partial);
    have = 0;
  }
  for (let fruitless = 0; have < file.bytes || file.bytes === 0; ) {
    const headers = { "accept-encoding": "identity", ...(have > 0 && { range: `bytes=${have}-` }) };
    const response = await hubFetch(file.url, { headers });
    const cut = await append(response, file, partial, have, onBytes);
    access.signal?.throwIfAborted();
    const now = await sizeOf(partial);
    fruitless = now > have ? 0 : fruitless + 1;
    have = now;
    if (have === file.bytes) break;
    const where = `${file.name} broke off at ${have} of ${file.bytes} bytes`;
    if (fruitless === maxTries) {
      throw new HubError(`${where}, ${maxTries} times (${cut}); the same command goes on from there`);
    }
    access.note(`${where}; going on`);
    await access.wait(backOffMs(Math.max(1, fruitless)));
  }
}

/** Returns the reason why the body ended. */
async function append(
  response: Response,
  file: RemoteFile,
  partial: string,
  have: number,
  onBytes: (bytes: number) => void,
): Promise<string> {
  const range = response.headers.get("content-range") ?? "";
  const continues = response.status === 206;
  if (continues && !range.startsWith(`bytes ${have}-`)) {
    throw new HubError(`${file.url} was asked for bytes from ${have} and answered with "${range}"`);
  }
  // A server without range support sends the whole file, which replaces the partial file.
  const target = await open(partial, continues ? "a" : "w").catch((error) => diskError(error, file, partial));
  let written = continues ? have : 0;
  try {
    const body = response.body?.getReader();
    for (;;) {
      const chunk = await body?.read().catch((error: Error) => error);
      if (chunk instanceof Error) return chunk.message;
      if (!chunk || chunk.done) return "the answer ended";
      written += chunk.value.byteLength;
      if (written > file.bytes) {
        await body?.cancel();
        throw new HubError(`${file.url} sends more than the ${file.bytes} bytes that the hub lists`);
      }
      await target.appendFile(chunk.value).catch((error) => diskError(error, file, partial));
      onBytes(written);
    }
  } finally {
    await target.sync().catch(() => {}); // A disk that is full has failed the write already.
    await target.close();
  }
}

function diskError(error: NodeJS.ErrnoException, file: RemoteFile, partial: string): never {
  if (error.code !== "ENOSPC" && error.code !== "EDQUOT") throw error;
  throw new HubError(`no space left for ${partial}: ${file.name} has ${file.bytes} bytes; free some and run it again`, {
    cause: error,
  });
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => null))?.size ?? 0;
}

/** Partial files of other revisions have other checksums in their names. */
async function removeOtherPartials(folder: string, name: string): Promise<void> {
  for (const entry of await readdir(folder)) {
    if (entry.startsWith(`${name}.`) && entry.endsWith(".partial")) await rm(join(folder, entry));
  }
}
