/** Downloads a published set (shared/artifacts/bucket.ts). The manifest is written last, so a folder with a manifest is complete. */
import { mkdir, readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AwsClient } from "aws4fetch";
import { objectName, pointerName } from "../../../shared/artifacts/bucket.ts";
import { setLimits } from "../../../shared/artifacts/limits.ts";
import { type FileRecord, filesOf, manifestFile, parseManifest } from "../../../shared/artifacts/manifest.ts";
import { readAtMost, requireFile, requireManifest } from "../../../shared/artifacts/set-file.ts";
import { hashPattern } from "../../../shared/contracts/inference.ts";
import { nullIfMissing, readFileAtMost, removeUnfinished, writeWhole } from "../../files.ts";

/** Reads at most `maxBytes + 1` bytes, to detect an oversized object. Resolves to null if the object is missing. */
export type ReadObject = (name: string, maxBytes: number) => Promise<Uint8Array | null>;

export interface StoreSettings {
  url: string; // http, https or file
  credentials: { accessKeyId: string; secretAccessKey: string } | null;
}

/** Timeouts for the pointer and for a file. The pointer's timeout is short, because it delays the start. */
const [pointerMs, fileMs] = [5000, 120_000];

/** An older unfinished write must belong to a killed process. */
const abandonedMs = 600_000;

export function openStore({ url, credentials }: StoreSettings): ReadObject {
  if (url.startsWith("file:")) {
    return (name, maxBytes) => readFileAtMost(join(fileURLToPath(url), name), maxBytes).catch(nullIfMissing);
  }
  // No retries: the caller polls.
  const client = credentials && new AwsClient({ ...credentials, service: "s3", region: "auto", retries: 0 });
  const base = url.replace(/\/+$/, "");
  return async (name, maxBytes) => {
    const target = `${base}/${name}`;
    const init = { signal: AbortSignal.timeout(name === pointerName ? pointerMs : fileMs) };
    const response = client ? await client.fetch(target, init) : await fetch(target, init);
    if (response.status === 404) {
      await response.body?.cancel();
      return null;
    }
    if (!response.ok) {
      await response.body?.cancel();
      throw new Error(`${target} answered ${response.status}`);
    }
    return response.body ? await readAtMost(response.body, maxBytes) : new Uint8Array(0);
  };
}

const maxFolders = 8;

/** Several backends of a machine may share `directory`. */
export function setDownloads(directory: string, read: ReadObject, now: () => Date) {
  const fetchObject = async (hash: string, name: string, maxBytes: number, check: Check) => {
    const bytes = await read(objectName(hash), maxBytes);
    if (!bytes) throw new Error(`${objectName(hash)}, ${name}, is not in the store`);
    await check(bytes);
    return bytes;
  };
  const downloadFile = async (folder: string, name: string, record: FileRecord) => {
    const path = join(folder, name);
    const isWhole = (bytes: Uint8Array) => requireFile(name, bytes, record);
    if (await presentFile(path, record.bytes, isWhole)) return;
    await writeWhole(path, await fetchObject(record.sha256, name, record.bytes, isWhole));
  };
  /** Downloads a set. Rejects with an Error that names the faulty object. */
  return async (manifestHash: string, inUse: readonly string[]) => {
    const folder = join(directory, manifestHash);
    const path = join(folder, manifestFile);
    const isManifest = (bytes: Uint8Array) => requireManifest(bytes, manifestHash);
    const present = await presentFile(path, setLimits.manifestBytes, isManifest);
    const bytes = present ?? (await fetchObject(manifestHash, manifestFile, setLimits.manifestBytes, isManifest));
    const manifest = parseManifest(new TextDecoder().decode(bytes));
    await mkdir(folder, { recursive: true });
    await removeUnfinished(folder, now().getTime() - abandonedMs);
    try {
      for (const [name, record] of filesOf(manifest)) await downloadFile(folder, name, record);
      if (!present) await writeWhole(path, bytes);
      await utimes(folder, now(), now());
    } finally {
      await tidy(directory, [...inUse, manifestHash]);
    }
    return { folder, manifest };
  };
}

async function tidy(directory: string, kept: readonly string[]): Promise<void> {
  const names = (await readdir(directory)).filter((name) => hashPattern.test(name));
  // Another backend may have removed the folder in the meantime.
  const timeOf = async (name: string) => (await stat(join(directory, name)).catch(() => null))?.mtimeMs ?? 0;
  const folders = await Promise.all(names.map(async (name) => ({ name, usedMs: await timeOf(name) })));
  const newestFirst = folders.toSorted((a, b) => b.usedMs - a.usedMs);
  for (const { name } of newestFirst.slice(maxFolders)) {
    if (!kept.includes(name)) await rm(join(directory, name), { recursive: true, force: true });
  }
}

type Check = (bytes: Uint8Array) => Promise<void>;

async function presentFile(path: string, maxBytes: number, check: Check): Promise<Uint8Array | null> {
  try {
    const bytes = await readFileAtMost(path, maxBytes);
    await check(bytes);
    return bytes;
  } catch {
    return null;
  }
}
