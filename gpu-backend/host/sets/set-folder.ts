/**
 * Downloads a published set into its own folder, in the layout that training writes. The size and hash of every file are
 * checked, also of those that only the edge reads. The manifest is checked before anything is written, and written last: a
 * folder with a manifest is complete. Complete files are not fetched again, so an interrupted download resumes.
 */
import { mkdir, readdir, rm, stat, utimes } from "node:fs/promises";
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
import { removeUnfinished, writeWhole } from "../../whole-file.ts";
import type { ReadObject } from "./artifact-store.ts";

export interface BroughtSet {
  folder: string;
  manifest: Manifest;
}

/** Folders of complete sets that are kept: the most recently used. */
const keptFolders = 8;
/** Unfinished folders kept so a retry can resume. */
const keptUnfinished = 1;

export class SetFolders {
  readonly #directory: string;
  readonly #read: ReadObject;
  readonly #now: () => Date;

  /** Creates the folders in `directory`, which backends on one machine may share. */
  constructor(directory: string, read: ReadObject, now: () => Date) {
    this.#directory = directory;
    this.#read = read;
    this.#now = now;
  }

  /**
   * Rejects with an Error that names the faulty object. Folders of the manifests in `inUse` are never removed.
   */
  async bring(manifestHash: string, inUse: readonly string[]): Promise<BroughtSet> {
    const folder = join(this.#directory, manifestHash);
    const path = join(folder, manifestFile);
    const isManifest = (bytes: Uint8Array) => requireManifest(bytes, manifestHash);
    const present = await presentFile(path, setLimits.manifestBytes, isManifest);
    const bytes = present ?? (await this.#fetch(manifestHash, manifestFile, setLimits.manifestBytes, isManifest));
    const manifest = parseManifest(new TextDecoder().decode(bytes));
    await mkdir(folder, { recursive: true });
    await removeUnfinished(folder, this.#now().getTime());
    try {
      for (const name of setFiles) await this.#bringFile(folder, name, manifest.files[name]);
      if (!present) await writeWhole(path, bytes);
      await utimes(folder, this.#now(), this.#now());
    } finally {
      await this.#tidy([...inUse, manifestHash]);
    }
    return { folder, manifest };
  }

  /** Removes the least recently used folders. */
  async #tidy(kept: readonly string[]): Promise<void> {
    const names = (await readdir(this.#directory)).filter((name) => hashPattern.test(name));
    // Another backend may remove one concurrently.
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

/** Rejects when the bytes are not those of the file. */
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
