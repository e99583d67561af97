/**
 * Brings a published set into a folder of its own, laid out as training writes one. Every file is held against its size and
 * hash, also those that only the edge reads. The manifest is checked before anything is written, and written last: a folder
 * with one is whole. What is there and whole is not fetched again, so that it goes on where it was cut off.
 */
import { mkdir, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { objectName } from "../../../shared/artifacts/bucket.ts";
import { setLimits } from "../../../shared/artifacts/limits.ts";
import {
  type FileRecord,
  type Manifest,
  manifestFile,
  parseManifest,
  setFiles,
} from "../../../shared/artifacts/manifest.ts";
import { requireFile, requireManifest } from "../../../shared/artifacts/set-file.ts";
import { hashPattern } from "../../../shared/contracts/inference.ts";
import { readFileAtMost } from "../../bounded-file.ts";
import type { ReadObject } from "./artifact-store.ts";

export interface BroughtSet {
  folder: string;
  manifest: Manifest;
}

/** Folders of whole sets that are kept: those that were wanted last. */
const keptFolders = 8;
/** Folders of sets that were cut off or refused: the newest, as its files need not be fetched again. */
const keptUnfinished = 1;

export class SetFolders {
  readonly #directory: string;
  readonly #read: ReadObject;
  readonly #now: () => Date;

  /** Folders of sets go into `directory`, which backends on one machine may share. */
  constructor(directory: string, read: ReadObject, now: () => Date) {
    this.#directory = directory;
    this.#read = read;
    this.#now = now;
  }

  /**
   * Rejects with an Error that names the object at fault. Folders of the manifests `inUse` stay, however many others come.
   */
  async bring(manifestHash: string, inUse: readonly string[]): Promise<BroughtSet> {
    const folder = join(this.#directory, manifestHash);
    const path = join(folder, manifestFile);
    const isManifest = (bytes: Uint8Array) => requireManifest(bytes, manifestHash);
    const present = await presentFile(path, setLimits.manifestBytes, isManifest);
    const bytes = present ?? (await this.#fetch(manifestHash, manifestFile, setLimits.manifestBytes, isManifest));
    const manifest = parseManifest(new TextDecoder().decode(bytes));
    await mkdir(folder, { recursive: true });
    try {
      for (const name of setFiles) await this.#bringFile(folder, name, manifest.files[name]);
      if (!present) await writeWhole(path, bytes);
      await utimes(folder, this.#now(), this.#now());
    } finally {
      await this.#tidy([...inUse, manifestHash]);
    }
    return { folder, manifest };
  }

  /** Removes the folders that nobody is likely to want again. */
  async #tidy(kept: readonly string[]): Promise<void> {
    const names = (await readdir(this.#directory)).filter((name) => hashPattern.test(name));
    // Another backend may have removed one just now.
    const timeOf = async (...path: string[]) => (await stat(join(this.#directory, ...path)).catch(() => null))?.mtimeMs;
    const folders = await Promise.all(
      names.map(async (name) => ({
        name,
        wantedMs: (await timeOf(name)) ?? 0,
        isWhole: (await timeOf(name, manifestFile)) !== undefined,
      })),
    );
    const newestFirst = folders.toSorted((a, b) => b.wantedMs - a.wantedMs);
    const surplus = [
      ...newestFirst.filter(({ isWhole }) => isWhole).slice(keptFolders),
      ...newestFirst.filter(({ isWhole }) => !isWhole).slice(keptUnfinished),
    ];
    for (const { name } of surplus) {
      if (!kept.includes(name)) await rm(join(this.#directory, name), { recursive: true, force: true });
    }
  }

  async #bringFile(folder: string, name: string, record: FileRecord): Promise<void> {
    const path = join(folder, name);
    const isWhole = (bytes: Uint8Array) => requireFile(name, bytes, record);
    if (await presentFile(path, record.bytes, isWhole)) return;
    await writeWhole(path, await this.#fetch(record.sha256, name, record.bytes, isWhole));
  }

  async #fetch(hash: string, name: string, mostBytes: number, check: Check): Promise<Uint8Array> {
    const bytes = await this.#read(objectName(hash), mostBytes);
    if (!bytes) throw new Error(`${objectName(hash)}, ${name}, is not in the store`);
    await check(bytes);
    return bytes;
  }
}

/** Rejects where the bytes are not those of the file. */
type Check = (bytes: Uint8Array) => Promise<void>;

async function presentFile(path: string, mostBytes: number, check: Check): Promise<Uint8Array | null> {
  try {
    const bytes = await readFileAtMost(path, mostBytes);
    await check(bytes);
    return bytes;
  } catch {
    return null;
  }
}

async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  // The process id: another may be at it, too.
  const unfinished = `${path}.${process.pid}`;
  await writeFile(unfinished, bytes);
  await rename(unfinished, path);
}
