/**
 * Brings a published set into a folder of its own, laid out as training writes one. Every file is held against its hash,
 * also those that only the edge reads: a set that an edge must refuse is refused here, too. What is there and whole is not
 * fetched again, so that it goes on where it was cut off.
 */
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { objectName } from "../../../shared/artifacts/bucket.ts";
import { type Manifest, manifestFile, parseManifest } from "../../../shared/artifacts/manifest.ts";
import { hashPattern } from "../../../shared/contracts/inference.ts";
import { sha256Hex } from "../../../shared/sha256.ts";
import type { ReadObject } from "./artifact-store.ts";

export interface BroughtSet {
  folder: string;
  manifest: Manifest;
}

/** Folders of sets that are kept: those that were wanted last. */
const keptFolders = 8;

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

  /** Rejects with an Error that names the object at fault. */
  async bring(manifestHash: string): Promise<BroughtSet> {
    const folder = join(this.#directory, manifestHash);
    await mkdir(folder, { recursive: true });
    const manifestBytes = await this.#bringFile(folder, manifestFile, manifestHash);
    const manifest = parseManifest(new TextDecoder().decode(manifestBytes));
    for (const [name, { sha256 }] of Object.entries(manifest.files)) {
      if (basename(name) !== name)
        throw new Error(`the manifest ${manifestHash} lists ${name}, which is not a file's name`);
      await this.#bringFile(folder, name, sha256);
    }
    await utimes(folder, this.#now(), this.#now());
    await this.#tidy();
    return { folder, manifest };
  }

  async #tidy(): Promise<void> {
    const names = (await readdir(this.#directory)).filter((name) => hashPattern.test(name));
    const folders = await Promise.all(
      names.map(async (name) => {
        // Another backend may have removed it just now.
        const about = await stat(join(this.#directory, name)).catch(() => null);
        return { name, wantedMs: about?.mtimeMs ?? 0 };
      }),
    );
    for (const { name } of folders.toSorted((a, b) => b.wantedMs - a.wantedMs).slice(keptFolders)) {
      await rm(join(this.#directory, name), { recursive: true, force: true });
    }
  }

  async #bringFile(folder: string, name: string, hash: string): Promise<Uint8Array> {
    const path = join(folder, name);
    const present = await readFile(path).catch(() => null);
    if (present && (await sha256Hex(present)) === hash) return present;
    const bytes = await this.#read(objectName(hash));
    if (!bytes) throw new Error(`${objectName(hash)}, ${name}, is not in the store`);
    const found = await sha256Hex(bytes);
    if (found !== hash) {
      throw new Error(`${objectName(hash)}, ${name}, has ${bytes.length} bytes of SHA-256 ${found}`);
    }
    // The process id: another may be at it, too.
    const unfinished = `${path}.${process.pid}`;
    await writeFile(unfinished, bytes);
    await rename(unfinished, path);
    return bytes;
  }
}
