/** Above a bound, the least recently used files are removed: the edge can have them made again. Only one process may write to a folder. */
import { randomBytes } from "node:crypto";
import * as fs from "node:fs/promises";
import { readdir, rm, stat, utimes } from "node:fs/promises";
import { basename, join, sep } from "node:path";
import { hashPattern } from "../../shared/contracts/inference.ts";
import { centroidTenant } from "../../shared/contracts/tenant-name.ts";
import { nullIfMissing, removeUnfinished, type WriteSystem, writeWhole } from "../files.ts";
import { LruCache } from "../lru.ts";
import { type FilePlan, PartialFile, plannedBytes, unwrittenBytes } from "./partial-file.ts";
import { keyBytes } from "./sealed-records.ts";
import { partialSuffix, TenantFiles, type TenantFilesSettings } from "./tenant-files.ts";

export const leftoverMs = 86_400_000;

export interface TenantStoreSettings extends TenantFilesSettings {
  /** Maximum bytes of all tenants' files together. */
  totalBytes: number;
  now(): Date;
  /** Replaced in tests. */
  system?: WriteSystem;
}

export type DiskState = TenantStore["disk"];

interface Entry {
  bytes: number;
  /** True if this process has written the file or checked that it decrypts. */
  isIntact: boolean;
  /** If true, the file is not removed for room. */
  isWriting?: boolean;
}

type Index = Map<string, Entry>;

const planOf = (content: Uint8Array): FilePlan => ({ label: new Uint8Array(0), head: content, recordBytes: [] });

export function fileBytes(content: Uint8Array): number {
  return plannedBytes(planOf(content));
}

export class TenantStore {
  readonly files: TenantFiles;
  readonly #settings: TenantStoreSettings;
  readonly #system: WriteSystem;
  #indexing: Promise<Index> | null = null;
  #index: Index = new Map();
  /** Contents that the disk refused, by path. */
  readonly #unwritten = new LruCache<Uint8Array>(unwrittenBytes);
  /** The last change of each folder, because changes of a folder run one by one. */
  readonly #turns = new Map<string, Promise<unknown>>();
  #fault: string | null = null;
  #failures = 0;

  constructor(settings: TenantStoreSettings) {
    this.#settings = settings;
    this.#system = settings.system ?? fs;
    this.files = new TenantFiles(settings);
  }

  /** `fault` is the error code of the last write, such as `ENOSPC`, or null. Partial files are counted, too. */
  get disk() {
    const bytes = this.#index.values().reduce((sum, entry) => sum + entry.bytes, 0);
    const [fault, failures] = [this.#fault, this.#failures];
    return { fault, failures, unwrittenBytes: this.#unwritten.bytes, files: this.#index.size, bytes };
  }

  get tenantBytes(): number {
    return this.#settings.tenantBytes;
  }

  /** Lists the files, once, and removes unfinished writes of killed processes. After a failure, the next call tries again. */
  load(): Promise<Index> {
    this.#indexing ??= this.#readIndex().catch((error) => {
      this.#indexing = null;
      throw error;
    });
    return this.#indexing;
  }

  /** The file must have at most `tenantBytes` bytes (`fileBytes`). */
  async keep(tenant: string, hash: string, content: Uint8Array): Promise<void> {
    await this.#inTurn(tenant, async () => {
      const file = await this.#begin(tenant, hash, planOf(content));
      try {
        await file.finish();
      } finally {
        await file.close();
      }
    });
  }

  /** Continues a partial file with the same label and head. Until closed, the file is not removed for room. */
  async begin(tenant: string, hash: string, plan: FilePlan): Promise<PartialFile> {
    await this.removeLeftovers();
    return this.#inTurn(tenant, () => this.#begin(tenant, hash, plan));
  }

  async #begin(tenant: string, hash: string, plan: FilePlan): Promise<PartialFile> {
    const path = this.files.pathOf(tenant, hash);
    const partialPath = path + partialSuffix;
    const bytes = plannedBytes(plan);
    const file = new PartialFile({
      ...{ hash, plan, path, partialPath, system: this.#system },
      onDisk: (write) => this.#onDisk(write),
      finished: (unwritten) => {
        this.#index.delete(partialPath);
        this.#unwritten.delete(path);
        if (unwritten) this.#unwritten.set(path, unwritten, unwritten.length);
        else this.#used(path, { bytes, isIntact: true });
      },
      closed: async () => {
        const about = await stat(partialPath).catch(() => null);
        if (about) this.#used(partialPath, { bytes: about.size, isIntact: false });
        else this.#index.delete(partialPath);
      },
    });
    this.#used(partialPath, { bytes, isIntact: false, isWriting: true });
    const found = await this.files.records(tenant, hash, partialSuffix);
    const requireKey = async () => {
      const key = await this.#requireKey(tenant);
      await this.#makeRoom(tenant, path, bytes);
      return key;
    };
    await file.open(found, requireKey).catch(async (error) => {
      await file.close();
      throw error;
    });
    return file;
  }

  /** Content of a file in RAM, which no other process can read. Returns null for a file on disk. */
  unwritten(tenant: string, hash: string): Uint8Array | null {
    return this.#unwritten.get(this.files.pathOf(tenant, hash)) ?? null;
  }

  /** Returns null if the file is missing. Removes a damaged file. Marks the file as used. */
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
    // Without the tenant's key, which may be lost, the file is useless.
    const isKnown = known?.isIntact && known.bytes === about.size && (await this.files.keyOf(tenant)) !== null;
    if (!isKnown) {
      if (known) known.isIntact = false;
      if (!(await this.#inTurn(tenant, () => this.#check(tenant, hash, about.size)))) return null;
    }
    this.#used(path, { bytes: about.size, isIntact: true });
    const now = this.#settings.now();
    // After a restart these times give the order in which files were used. A failure to set them is harmless.
    await utimes(path, now, now).catch(() => undefined);
    return about.size;
  }

  /** Makes the next `bytesOf` check the file. */
  doubt(tenant: string, hash: string): void {
    const known = this.#index.get(this.files.pathOf(tenant, hash));
    if (known) known.isIntact = false;
  }

  async has(tenant: string, hash: string): Promise<boolean> {
    return (await this.bytesOf(tenant, hash)) !== null;
  }

  /** The most recently used file comes first. `suffix` is `partialSuffix` or "". */
  async list(tenant: string): Promise<{ hash: string; suffix: string }[]> {
    const folder = this.files.folderOf(tenant) + sep;
    const own = [...(await this.load()).keys()].filter((path) => path.startsWith(folder)).reverse();
    return own.map((path) => {
      const suffix = path.endsWith(partialSuffix) ? partialSuffix : "";
      return { hash: basename(path, suffix), suffix };
    });
  }

  /** Overwrites the tenant's key first, so that copies of the files cannot be decrypted. */
  async removeAll(tenant: string): Promise<void> {
    await this.#inTurn(tenant, async () => {
      await this.#destroyKey(this.files.keyPathOf(tenant));
      await this.#remove(this.files.folderOf(tenant));
    });
  }

  async remove(tenant: string, hash: string): Promise<void> {
    const path = this.files.pathOf(tenant, hash);
    await this.#inTurn(tenant, async () => {
      for (const one of [path, path + partialSuffix]) await this.#remove(one);
    });
  }

  /** Removes old partial files that are not being written. */
  async removeLeftovers(): Promise<void> {
    for (const [path, { isWriting }] of await this.load()) {
      if (!path.endsWith(partialSuffix) || isWriting) continue;
      const about = await stat(path).catch(() => null);
      if (about && this.#settings.now().getTime() - about.mtimeMs < leftoverMs) continue;
      await rm(path, { force: true }).catch(() => undefined);
      this.#index.delete(path);
    }
  }

  /** Whether the file decrypts. A file that does not decrypt is removed. */
  async #check(tenant: string, hash: string, size: number): Promise<boolean> {
    const path = this.files.pathOf(tenant, hash);
    // Another call may have checked the file in the meantime.
    const known = this.#index.get(path);
    if (known?.isIntact && known.bytes === size) return true;
    if (await this.files.read(tenant, hash)) return true;
    this.#index.delete(path);
    await rm(path, { force: true, recursive: true }).catch(() => undefined);
    return false;
  }

  /** Resolves to false if the file system refuses the write. */
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
    // Files sealed with a lost key cannot be read any more.
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

  /** Removes other files. The new file replaces any older file at `path`. */
  async #makeRoom(tenant: string, path: string, bytes: number): Promise<void> {
    const [own, centroids] = [tenant, centroidTenant].map((one) => this.files.folderOf(one) + sep);
    await this.#dropOldest((other) => other.startsWith(own), this.files.maximumBytes(tenant) - bytes, path);
    if (tenant === centroidTenant) return;
    await this.#dropOldest((other) => !other.startsWith(centroids), this.#settings.totalBytes - bytes, path);
  }

  /** Removes files until `maxBytes` suffice for those that count. `kept` and its partial file do not count. */
  async #dropOldest(isCounted: (path: string) => boolean, maxBytes: number, kept: string): Promise<void> {
    const index = await this.load();
    const own = [...index].filter(([path]) => isCounted(path) && !path.startsWith(kept));
    let total = own.reduce((sum, [, { bytes }]) => sum + bytes, 0);
    for (const [path, { bytes, isWriting }] of own) {
      if (total <= maxBytes) return;
      if (isWriting) continue;
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
    // A path whose parent is a file does not exist.
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
      // Only this process writes here, so every unfinished write is stale.
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

/** For `catch`: null if the file or a folder of its path does not exist. */
function nullIfNowhere(error: NodeJS.ErrnoException): null {
  return error.code === "ENOTDIR" ? null : nullIfMissing(error);
}
