/**
 * Instant adapters on disk, in a folder per tenant (`tenants/SHA-256 of its name`), so that they survive a restart. The hash keeps
 * tenants apart where a file system ignores case, and keeps a tenant from being named as another folder. Files are written atomically, and the name
 * of a file is the hash of its content. Every access names the tenant, so no tenant reaches another's adapters. The edge keeps
 * the originals and uploads missing ones, so a full folder drops the least recently used.
 */
import { createHash } from "node:crypto";
import { mkdir, open, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { hashPattern } from "../../../shared/contracts/inference.ts";
import { tenantPattern } from "../../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { nullIfMissing, readFileAtMost } from "../../bounded-file.ts";
import { instantHash } from "./artifact.ts";

export class InstantStore {
  readonly #directory: string;
  readonly #bytesPerTenant: number;
  readonly #now: () => Date;
  #writes = 0;

  constructor(directory: string, bytesPerTenant: number, now: () => Date) {
    this.#directory = directory;
    this.#now = now;
    this.#bytesPerTenant = bytesPerTenant;
  }

  /** Stores an adapter and returns its hash. Throws a ServiceError if it alone exceeds the tenant's limit. */
  async keep(tenant: string, bytes: Uint8Array): Promise<string> {
    if (bytes.length > this.#bytesPerTenant) {
      throw new ServiceError(
        "adapter_quota_exceeded",
        `The adapter has ${bytes.length} bytes; a tenant may keep ${this.#bytesPerTenant} bytes of adapters.`,
      );
    }
    const hash = instantHash(tenant, bytes);
    const path = this.#pathOf(tenant, hash);
    await mkdir(join(path, ".."), { recursive: true });
    await writeWhole(path, `${path}.${process.pid}.${this.#writes++}`, bytes);
    await this.#drop(tenant, hash);
    return hash;
  }

  /** The bytes of an adapter; null if it is missing or does not match its hash. */
  async read(tenant: string, hash: string): Promise<Uint8Array | null> {
    const path = this.#pathOf(tenant, hash);
    const bytes = await readFileAtMost(path, this.#bytesPerTenant).catch(nullIfMissing);
    if (!bytes || instantHash(tenant, bytes) !== hash) return null;
    const now = this.#now();
    await utimes(path, now, now).catch(nullIfMissing);
    return bytes;
  }

  async has(tenant: string, hash: string): Promise<boolean> {
    return (await stat(this.#pathOf(tenant, hash)).catch(nullIfMissing)) !== null;
  }

  /** Removes all adapters of a tenant, files that are being written too. */
  async removeAll(tenant: string): Promise<void> {
    await rm(this.#folderOf(tenant), { recursive: true, force: true });
  }

  /** Removes an adapter, if there is one of this hash. */
  async remove(tenant: string, hash: string): Promise<void> {
    await rm(this.#pathOf(tenant, hash), { force: true });
  }

  /** Removes the least recently used adapters until the tenant's limit holds, but never `kept`. */
  async #drop(tenant: string, kept: string): Promise<void> {
    const names = (await readdir(this.#folderOf(tenant))).filter((name) => hashPattern.test(name));
    const files = await Promise.all(
      names.map(async (name) => ({ name, about: await stat(this.#pathOf(tenant, name)).catch(nullIfMissing) })),
    );
    let total = files.reduce((sum, { about }) => sum + (about?.size ?? 0), 0);
    for (const { name, about } of files.sort((a, b) => (a.about?.mtimeMs ?? 0) - (b.about?.mtimeMs ?? 0))) {
      if (total <= this.#bytesPerTenant) return;
      if (name === kept || !about) continue;
      await rm(this.#pathOf(tenant, name), { force: true });
      total -= about.size;
    }
  }

  /** Only strict ids become paths. */
  #pathOf(tenant: string, hash: string): string {
    if (!hashPattern.test(hash)) throw new Error("not a hash");
    return join(this.#folderOf(tenant), hash);
  }

  #folderOf(tenant: string): string {
    if (!tenantPattern.test(tenant)) throw new Error("not a tenant's id");
    return join(this.#directory, "tenants", createHash("sha256").update(tenant).digest("hex"));
  }
}

async function writeWhole(path: string, unfinished: string, bytes: Uint8Array): Promise<void> {
  const file = await open(unfinished, "w");
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(unfinished, path);
}
