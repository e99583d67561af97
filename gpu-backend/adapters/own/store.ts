/**
 * Own adapters on disk, in a folder per tenant (`tenants/SHA-256 of its name`): the hash keeps tenants apart on file systems
 * that ignore case. A file is named by the hash of its content, and every access names the tenant. The edge keeps the originals
 * and uploads missing ones, so the least recently used are removed at a bound. What the disk refuses is kept in memory.
 */
import { createHash } from "node:crypto";
import { readdir, rm, stat, utimes } from "node:fs/promises";
import { join, sep } from "node:path";
import { hashPattern } from "../../../shared/contracts/inference.ts";
import { tenantPattern } from "../../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { readFileAtMost, removeUnfinished, type WriteSystem, writeWhole } from "../../files.ts";
import { LruCache } from "../lru.ts";
import { ownAdapterHash } from "./artifact.ts";

/** Maximum bytes of adapters kept in memory because the disk refused them. */
const unwrittenBytes = 64 * 2 ** 20;

export interface OwnAdapterStoreSettings {
  directory: string;
  tenantBytes: number;
  /** Of all tenants together. */
  totalBytes: number;
  now(): Date;
  /** The file system for writes; the real one by default. */
  system?: WriteSystem;
}

/** Why the last write failed, such as `ENOSPC`; null if it succeeded, or before the first. */
export type DiskFault = string | null;

/** Reads one tenant's adapters, in any process. */
export class OwnAdapterFiles {
  readonly #directory: string;
  readonly #tenantBytes: number;

  constructor({ directory, tenantBytes }: Pick<OwnAdapterStoreSettings, "directory" | "tenantBytes">) {
    this.#directory = join(directory, "tenants");
    this.#tenantBytes = tenantBytes;
  }

  /** The bytes of an adapter; null if it is missing or does not match its hash. */
  async read(tenant: string, hash: string): Promise<Uint8Array | null> {
    // A file that cannot be read is uploaded again.
    const bytes = await readFileAtMost(this.pathOf(tenant, hash), this.#tenantBytes).catch(() => null);
    return bytes && ownAdapterHash(tenant, bytes) === hash ? bytes : null;
  }

  /** Only strict ids become paths. */
  pathOf(tenant: string, hash: string): string {
    if (!hashPattern.test(hash)) throw new Error("not a hash");
    return join(this.folderOf(tenant), hash);
  }

  folderOf(tenant: string): string {
    if (!tenantPattern.test(tenant)) throw new Error("not a tenant's id");
    return join(this.#directory, createHash("sha256").update(tenant).digest("hex"));
  }

  /** The folders of all tenants. */
  async folders(): Promise<string[]> {
    const names = await readdir(this.#directory).catch(() => []);
    return names.filter((name) => hashPattern.test(name)).map((name) => join(this.#directory, name));
  }
}

/** One process writes a folder. */
export class OwnAdapterStore {
  readonly #settings: OwnAdapterStoreSettings;
  readonly #files: OwnAdapterFiles;
  /** Bytes of each file by its path, least recently used first. */
  #index: Promise<Map<string, number>> | null = null;
  /** Adapters that the disk refused, by path. */
  readonly #unwritten = new LruCache<Uint8Array>(unwrittenBytes);
  #fault: DiskFault = null;
  #failures = 0;

  constructor(settings: OwnAdapterStoreSettings) {
    this.#settings = settings;
    this.#files = new OwnAdapterFiles(settings);
  }

  get disk(): { fault: DiskFault; failures: number; unwrittenBytes: number } {
    return { fault: this.#fault, failures: this.#failures, unwrittenBytes: this.#unwritten.bytes };
  }

  /** Stores an adapter and returns its hash. Throws a ServiceError if it alone exceeds the tenant's bound. */
  async keep(tenant: string, bytes: Uint8Array): Promise<string> {
    const { tenantBytes, totalBytes, system } = this.#settings;
    if (bytes.length > tenantBytes) {
      throw new ServiceError(
        "adapter_quota_exceeded",
        `The adapter has ${bytes.length} bytes; a tenant may keep ${tenantBytes} bytes of adapters.`,
      );
    }
    const hash = ownAdapterHash(tenant, bytes);
    const path = this.#files.pathOf(tenant, hash);
    const index = await this.#indexed();
    this.#unwritten.delete(path);
    try {
      // Before the write, which may need the room.
      await dropOldest(index, join(path, ".."), tenantBytes - bytes.length, path);
      await dropOldest(index, "", totalBytes - bytes.length, path);
      await writeWhole(path, bytes, { system });
      index.delete(path);
      index.set(path, bytes.length);
      this.#fault = null;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === undefined) throw error;
      this.#fault = code;
      this.#failures++;
      this.#unwritten.set(path, bytes, bytes.length);
    }
    return hash;
  }

  /** The bytes of an adapter; null if it is missing or does not match its hash. */
  async read(tenant: string, hash: string): Promise<Uint8Array | null> {
    return this.unwritten(tenant, hash) ?? (await this.#files.read(tenant, hash));
  }

  /** The bytes of an adapter that the disk refused, which other processes cannot read; null for any other. */
  unwritten(tenant: string, hash: string): Uint8Array | null {
    return this.#unwritten.get(this.#files.pathOf(tenant, hash)) ?? null;
  }

  /** Whether it is here; it then counts as used. */
  async has(tenant: string, hash: string): Promise<boolean> {
    const path = this.#files.pathOf(tenant, hash);
    if (this.#unwritten.get(path)) return true;
    const index = await this.#indexed();
    const about = await stat(path).catch(() => null);
    index.delete(path);
    if (!about) return false;
    index.set(path, about.size);
    const now = this.#settings.now();
    // After a restart these times give the order of use. A failure is harmless.
    await utimes(path, now, now).catch(() => undefined);
    return true;
  }

  /** Removes all adapters of a tenant, files that are being written too. */
  async removeAll(tenant: string): Promise<void> {
    await this.#remove(this.#files.folderOf(tenant));
  }

  /** Removes an adapter, if there is one of this hash. */
  async remove(tenant: string, hash: string): Promise<void> {
    await this.#remove(this.#files.pathOf(tenant, hash));
  }

  async #remove(path: string): Promise<void> {
    const isMeant = (other: string) => other === path || other.startsWith(path + sep);
    for (const other of this.#unwritten.keys.filter(isMeant)) this.#unwritten.delete(other);
    const index = await this.#indexed();
    for (const other of [...index.keys()].filter(isMeant)) index.delete(other);
    await rm(path, { recursive: true, force: true }).catch((error: NodeJS.ErrnoException) => {
      // A part of the path is a file: nothing can be there.
      if (error.code !== "ENOTDIR") throw error;
    });
  }

  /** Reads the folders once, or again after a failure, and removes what killed processes left there. */
  #indexed(): Promise<Map<string, number>> {
    this.#index ??= this.#readIndex().catch((error) => {
      this.#index = null;
      throw error;
    });
    return this.#index;
  }

  async #readIndex(): Promise<Map<string, number>> {
    const found: { path: string; bytes: number; usedMs: number }[] = [];
    for (const folder of await this.#files.folders()) {
      // This process has not begun a write yet, and no other one writes here.
      await removeUnfinished(folder, Number.POSITIVE_INFINITY, this.#settings.system);
      for (const name of await readdir(folder).catch(() => [])) {
        const path = join(folder, name);
        const about = hashPattern.test(name) ? await stat(path).catch(() => null) : null;
        if (about) found.push({ path, bytes: about.size, usedMs: about.mtimeMs });
      }
    }
    return new Map(found.sort((a, b) => a.usedMs - b.usedMs).map(({ path, bytes }) => [path, bytes]));
  }
}

/** Removes the least recently used files below `folder` until they have at most `maxBytes` without `kept`. */
async function dropOldest(index: Map<string, number>, folder: string, maxBytes: number, kept: string): Promise<void> {
  const own = [...index].filter(([path]) => path.startsWith(folder) && path !== kept);
  let total = own.reduce((sum, [, bytes]) => sum + bytes, 0);
  for (const [path, bytes] of own) {
    if (total <= maxBytes) return;
    await rm(path, { force: true });
    index.delete(path);
    total -= bytes;
  }
}
