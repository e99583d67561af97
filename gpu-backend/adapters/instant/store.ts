/**
 * Instant adapters on disk, a folder per tenant: what a restart must not lose. A file is there whole or not at all, and
 * its name is the hash of what is in it. Whoever asks names the tenant, so no tenant reaches another's. The edge keeps
 * the originals and brings back what is missing here, so a full folder drops what was used longest ago.
 */
import { mkdir, open, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { hashPattern, idPattern } from "../../../shared/contracts/inference.ts";
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

  /** Keeps an adapter and returns its hash. Throws a ServiceError where it alone is more than a tenant may keep. */
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

  /** null where it is not there, or is not what its name says. */
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

  /** Whether it was there. */
  async remove(tenant: string, hash: string): Promise<boolean> {
    const wasThere = await this.has(tenant, hash);
    await rm(this.#pathOf(tenant, hash), { force: true });
    return wasThere;
  }

  /** Removes what was used longest ago until the tenant's share holds; never `kept`. */
  async #drop(tenant: string, kept: string): Promise<void> {
    const names = (await readdir(join(this.#directory, tenant))).filter((name) => hashPattern.test(name));
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
    if (!idPattern.test(tenant) || !hashPattern.test(hash)) throw new Error("not a tenant's id and a hash");
    return join(this.#directory, tenant, hash);
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
