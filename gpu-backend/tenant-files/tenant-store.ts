/**
 * Tenants' files of one kind on disk (tenant-files.ts for their layout), with bounds on their bytes. The edge keeps what they are
 * made of, so the least recently used are removed at a bound. What the disk refuses is kept in memory. One process writes a folder.
 */
import { randomBytes } from "node:crypto";
import * as fs from "node:fs/promises";
import { readdir, rm, stat, utimes } from "node:fs/promises";
import { basename, join, sep } from "node:path";
import { hashPattern } from "../../shared/contracts/inference.ts";
import { nullIfMissing, removeUnfinished, type WriteSystem, writeWhole } from "../files.ts";
import { LruCache } from "../lru.ts";
import { type FilePlan, PartialFile, plannedBytes, unwrittenBytes } from "./partial-file.ts";
import { keyBytes, sealEnd, sealedBytes, sealRecord } from "./sealed-records.ts";
import { partialSuffix, TenantFiles, type TenantFilesSettings } from "./tenant-files.ts";

/** A partial file that nobody has continued for so long, in milliseconds, is removed. */
export const leftoverMs = 86_400_000;

export interface TenantStoreSettings extends TenantFilesSettings {
  /** Of all tenants together. */
  totalBytes: number;
  now(): Date;
  /** The file system for writes; the real one by default. */
  system?: WriteSystem;
}

/** Why the last write failed, such as `ENOSPC`; null if it succeeded, or before the first. */
export type DiskFault = string | null;

export interface DiskState {
  fault: DiskFault;
  failures: number;
  unwrittenBytes: number;
  /** Files on disk, with partial ones. */
  files: number;
  bytes: number;
}

interface Entry {
  bytes: number;
  /** Whether this process wrote the file or has checked it. */
  isIntact: boolean;
}

/** Entries by path, least recently used first. */
type Index = Map<string, Entry>;

/** The size of a file that `keep` writes. */
export function fileBytes(contentBytes: number): number {
  return sealedBytes([0, contentBytes]);
}

export class TenantStore {
  readonly files: TenantFiles;
  readonly #settings: TenantStoreSettings;
  readonly #system: WriteSystem;
  #indexing: Promise<Index> | null = null;
  #index: Index = new Map();
  /** Contents that the disk refused, by path. */
  readonly #unwritten = new LruCache<Uint8Array>(unwrittenBytes);
  /** Paths of partial files that are being written. */
  readonly #writing = new Set<string>();
  /** The end of the work that changes a tenant's folder, one piece after the other. */
  readonly #turns = new Map<string, Promise<unknown>>();
  #fault: DiskFault = null;
  #failures = 0;

  constructor(settings: TenantStoreSettings) {
    this.#settings = settings;
    this.#system = settings.system ?? fs;
    this.files = new TenantFiles(settings);
  }

  get disk(): DiskState {
    const bytes = this.#index.values().reduce((sum, entry) => sum + entry.bytes, 0);
    const [fault, failures] = [this.#fault, this.#failures];
    return { fault, failures, unwrittenBytes: this.#unwritten.bytes, files: this.#index.size, bytes };
  }

  get tenantBytes(): number {
    return this.#settings.tenantBytes;
  }

  /** Reads the folders once, or again after a failure, and removes what killed processes left there. */
  load(): Promise<Index> {
    this.#indexing ??= this.#readIndex().catch((error) => {
      this.#indexing = null;
      throw error;
    });
    return this.#indexing;
  }

  /** Stores a file, whose `fileBytes` are at most `tenantBytes`. */
  async keep(tenant: string, hash: string, content: Uint8Array): Promise<void> {
    const path = this.files.pathOf(tenant, hash);
    const records = [new Uint8Array(0), content];
    const bytes = fileBytes(content.length);
    await this.#inTurn(tenant, async () => {
      this.#unwritten.delete(path);
      const isWritten = await this.#onDisk(async () => {
        const key = await this.#requireKey(tenant);
        await this.#makeRoom(path, bytes);
        const sealed = records.map((record, place) => sealRecord(key, hash, place, record));
        const file = Buffer.concat([...sealed, sealEnd(key, hash, records.length)]);
        await writeWhole(path, file, { mode: 0o600, system: this.#system });
        this.#used(path, { bytes, isIntact: true });
      });
      if (!isWritten) this.#unwritten.set(path, content, content.length);
    });
  }

  /**
   * Begins a file that is written record by record, or continues one of the same label and head that was closed or whose process was
   * killed. Meanwhile the tenant opens no other, and loses none.
   */
  async begin(tenant: string, hash: string, plan: FilePlan): Promise<PartialFile> {
    const path = this.files.pathOf(tenant, hash);
    const partialPath = path + partialSuffix;
    const bytes = plannedBytes(plan);
    await this.removeLeftovers();
    const file = new PartialFile({
      ...{ hash, plan, path, partialPath, system: this.#system },
      onDisk: (write) => this.#onDisk(write),
      finished: (unwritten) => {
        this.#index.delete(partialPath);
        if (unwritten) this.#unwritten.set(path, unwritten, unwritten.length);
        else this.#used(path, { bytes, isIntact: true });
      },
      closed: async () => {
        this.#writing.delete(partialPath);
        const about = await stat(partialPath).catch(() => null);
        if (about) this.#used(partialPath, { bytes: about.size, isIntact: false });
        else this.#index.delete(partialPath);
      },
    });
    await this.#inTurn(tenant, async () => {
      const found = await this.files.records(tenant, hash, partialSuffix);
      this.#writing.add(partialPath);
      const requireKey = async () => {
        const key = await this.#requireKey(tenant);
        await this.#makeRoom(partialPath, bytes);
        this.#used(partialPath, { bytes, isIntact: false });
        return key;
      };
      await file.open(found, requireKey).catch(async (error) => {
        await file.close();
        throw error;
      });
    });
    return file;
  }

  /** The content of a file; null if it is missing or damaged. */
  async read(tenant: string, hash: string): Promise<Uint8Array | null> {
    return this.unwritten(tenant, hash) ?? (await this.files.read(tenant, hash));
  }

  /** The content of a file that the disk refused, which other processes cannot read; null for any other. */
  unwritten(tenant: string, hash: string): Uint8Array | null {
    return this.#unwritten.get(this.files.pathOf(tenant, hash)) ?? null;
  }

  /** Bytes of a file; null if it is missing, or damaged: then it is removed. It then counts as used. */
  async bytesOf(tenant: string, hash: string): Promise<number | null> {
    const path = this.files.pathOf(tenant, hash);
    const unwritten = this.#unwritten.get(path);
    if (unwritten) return unwritten.length;
    const index = await this.load();
    const about = await stat(path).catch(() => null);
    if (!about) {
      index.delete(path);
      return null;
    }
    const known = index.get(path);
    // Its key may have been lost since.
    const isKnown = known?.isIntact && known.bytes === about.size && (await this.files.keyOf(tenant)) !== null;
    if (!isKnown) {
      if (known) known.isIntact = false;
      if (!(await this.#inTurn(tenant, () => this.#check(tenant, hash, about.size)))) return null;
    }
    this.#used(path, { bytes: about.size, isIntact: true });
    const now = this.#settings.now();
    // After a restart these times give the order of use. A failure is harmless.
    await utimes(path, now, now).catch(() => undefined);
    return about.size;
  }

  /** Has a file checked before it counts as there again, because a reader has found it missing or damaged. */
  doubt(tenant: string, hash: string): void {
    const known = this.#index.get(this.files.pathOf(tenant, hash));
    if (known) known.isIntact = false;
  }

  async has(tenant: string, hash: string): Promise<boolean> {
    return (await this.bytesOf(tenant, hash)) !== null;
  }

  /** The files of a tenant that are on disk, those used last first, each with the suffix of a partial one or without. */
  async list(tenant: string): Promise<{ hash: string; suffix: string }[]> {
    const folder = this.files.folderOf(tenant) + sep;
    const own = [...(await this.load()).keys()].filter((path) => path.startsWith(folder)).reverse();
    return own.map((path) => {
      const suffix = path.endsWith(partialSuffix) ? partialSuffix : "";
      return { hash: basename(path, suffix), suffix };
    });
  }

  /** Removes all files of a tenant: first the key, which is overwritten, then what it sealed. */
  async removeAll(tenant: string): Promise<void> {
    await this.#inTurn(tenant, async () => {
      await this.#destroyKey(this.files.keyPathOf(tenant));
      await this.#remove(this.files.folderOf(tenant));
    });
  }

  /** Removes a file, if there is one of this hash, finished or not. */
  async remove(tenant: string, hash: string): Promise<void> {
    const path = this.files.pathOf(tenant, hash);
    await this.#inTurn(tenant, async () => {
      for (const one of [path, path + partialSuffix]) await this.#remove(one);
    });
  }

  /** Removes partial files that nobody continues. */
  async removeLeftovers(): Promise<void> {
    for (const path of (await this.load()).keys()) {
      if (!path.endsWith(partialSuffix) || this.#writing.has(path)) continue;
      const about = await stat(path).catch(() => null);
      if (about && this.#settings.now().getTime() - about.mtimeMs < leftoverMs) continue;
      await rm(path, { force: true }).catch(() => undefined);
      this.#index.delete(path);
    }
  }

  /** Whether a file decrypts; removes one that does not. */
  async #check(tenant: string, hash: string, size: number): Promise<boolean> {
    const path = this.files.pathOf(tenant, hash);
    // Another call may have checked it meanwhile.
    const known = this.#index.get(path);
    if (known?.isIntact && known.bytes === size) return true;
    if (await this.files.read(tenant, hash)) return true;
    this.#index.delete(path);
    await rm(path, { force: true, recursive: true }).catch(() => undefined);
    return false;
  }

  /** Runs a write. Resolves to false, and notes the fault, where the disk refuses it. */
  async #onDisk(write: () => Promise<void>): Promise<boolean> {
    try {
      await write();
      this.#fault = null;
      return true;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === undefined) throw error;
      this.#fault = code;
      this.#failures++;
      return false;
    }
  }

  async #requireKey(tenant: string): Promise<Uint8Array> {
    const known = await this.files.keyOf(tenant);
    if (known) return known;
    const key = randomBytes(keyBytes);
    // Files of a lost key are unreadable.
    for (const [path, entry] of this.#index) if (path.startsWith(this.files.folderOf(tenant))) entry.isIntact = false;
    await writeWhole(this.files.keyPathOf(tenant), key, { mode: 0o600, system: this.#system });
    return key;
  }

  async #destroyKey(path: string): Promise<void> {
    const file = await fs.open(path, "r+").catch(nullIfNowhere);
    if (!file) return;
    try {
      await file.write(new Uint8Array(keyBytes), 0, keyBytes, 0);
      await file.sync();
    } finally {
      await file.close();
    }
    await rm(path);
  }

  /** Before a write of `bytes` to `path`. */
  async #makeRoom(path: string, bytes: number): Promise<void> {
    const { tenantBytes, totalBytes } = this.#settings;
    await this.#dropOldest(join(path, ".."), tenantBytes - bytes, path);
    await this.#dropOldest("", totalBytes - bytes, path);
  }

  /** Removes the least recently used files below `folder` until they have at most `maxBytes` without `kept`. */
  async #dropOldest(folder: string, maxBytes: number, kept: string): Promise<void> {
    const index = await this.load();
    const own = [...index].filter(([path]) => path.startsWith(folder) && path !== kept);
    let total = own.reduce((sum, [, { bytes }]) => sum + bytes, 0);
    for (const [path, { bytes }] of own) {
      if (total <= maxBytes) return;
      if (this.#writing.has(path)) continue;
      await rm(path, { force: true });
      index.delete(path);
      total -= bytes;
    }
  }

  #used(path: string, entry: Entry): void {
    this.#index.delete(path);
    this.#index.set(path, entry);
  }

  async #remove(path: string): Promise<void> {
    const isMeant = (other: string) => other === path || other.startsWith(path + sep);
    for (const other of this.#unwritten.keys.filter(isMeant)) this.#unwritten.delete(other);
    const index = await this.load();
    for (const other of [...index.keys()].filter(isMeant)) index.delete(other);
    // Where a part of the path is a file, nothing can be there.
    await rm(path, { recursive: true, force: true }).catch(nullIfNowhere);
  }

  async #inTurn<T>(tenant: string, work: () => Promise<T>): Promise<T> {
    const folder = this.files.folderOf(tenant);
    await this.load();
    const turn = (this.#turns.get(folder) ?? Promise.resolve()).then(work);
    const ended = turn.catch(() => undefined);
    this.#turns.set(folder, ended);
    void ended.then(() => {
      if (this.#turns.get(folder) === ended) this.#turns.delete(folder);
    });
    return turn;
  }

  async #readIndex(): Promise<Index> {
    const found: { path: string; bytes: number; usedMs: number }[] = [];
    for (const folder of await this.files.folders()) {
      // This process has not begun a write yet, and no other one writes here.
      await removeUnfinished(folder, Number.POSITIVE_INFINITY, this.#system);
      for (const name of await readdir(folder).catch(() => [])) {
        const path = join(folder, name);
        const about = hashPattern.test(basename(name, partialSuffix)) ? await stat(path).catch(() => null) : null;
        if (about) found.push({ path, bytes: about.size, usedMs: about.mtimeMs });
      }
    }
    found.sort((a, b) => a.usedMs - b.usedMs);
    this.#index = new Map(found.map(({ path, bytes }) => [path, { bytes, isIntact: false }]));
    return this.#index;
  }
}

/** For `catch`: null if the file does not exist, or a part of its path is a file. Throws every other error. */
function nullIfNowhere(error: NodeJS.ErrnoException): null {
  return error.code === "ENOTDIR" ? null : nullIfMissing(error);
}
