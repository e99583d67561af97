/** The bucket of the edge that `chameleon start` serves, running or not: a folder, which the edge and its backends read. */
import { createHash } from "node:crypto";
import { open, readFile, rm, stat } from "node:fs/promises";
import path from "node:path";
import { writeWhole } from "../../gpu-backend/files.ts";
import { currentOf, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import type { ObjectStore } from "./store.ts";

/** A switch takes milliseconds: an older lock was left by a process that was killed. */
const staleLockMs = 10_000;

/** Hash of the manifest that was published locally; null where nothing was, or what is there cannot be read. */
export async function publishedManifest(folder: string): Promise<string | null> {
  try {
    return currentOf(parsePointer(await readFile(path.join(folder, pointerName), "utf8")));
  } catch {
    return null;
  }
}

/** Objects as files; an object's etag is the SHA-256 of its bytes. Metadata, which are hints, are not kept. */
export function folderStore(folder: string): ObjectStore {
  const get = async (name: string) => {
    const bytes = await readFile(path.join(folder, name)).catch(nullWhereMissing);
    return bytes && { bytes: new Uint8Array(bytes), etag: createHash("sha256").update(bytes).digest("hex") };
  };
  return {
    get,
    async put(name, bytes) {
      await writeWhole(path.join(folder, name), bytes);
    },
    async replace(name, bytes, etag) {
      const file = path.join(folder, name);
      return locked(`${file}.lock`, async () => {
        if (((await get(name))?.etag ?? null) !== etag) return false;
        await writeWhole(file, bytes);
        return true;
      });
    },
  };
}

/** Runs `work` while no other process has the lock; false where another has it. */
async function locked(lock: string, work: () => Promise<boolean>): Promise<boolean> {
  const held = await stat(lock).catch(nullWhereMissing);
  if (held && Date.now() - held.mtimeMs > staleLockMs) await rm(lock, { force: true });
  const handle = await open(lock, "wx").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "EEXIST") return null;
    throw error;
  });
  if (!handle) return false;
  try {
    return await work();
  } finally {
    await handle.close();
    await rm(lock, { force: true });
  }
}

function nullWhereMissing(error: NodeJS.ErrnoException): null {
  if (error.code === "ENOENT") return null;
  throw error;
}
