/** A tenant's folder is named by a hash, because some file systems ignore case. A damaged file counts as missing. */
import { createHash } from "node:crypto";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { hashPattern } from "../../shared/contracts/inference.ts";
import { centroidTenant, tenantPattern } from "../../shared/contracts/tenant-name.ts";
import { readFileAtMost } from "../files.ts";
import { keyBytes, SealedRecords } from "./sealed-records.ts";

/** After this many decrypted bytes, other work of the process may run. */
const yieldBytes = 8 * 2 ** 20;

/** Bound on centroids' memories. Those of the embedded set take 57 MB. */
const centroidBytes = 2 ** 30;
const keyFile = "key";
export const partialSuffix = ".partial";

export interface TenantFilesSettings {
  directory: string;
  /** Maximum bytes of a tenant's files together, and so of a single file. */
  tenantBytes: number;
}

export function tenantDirectory(dataDirectory: string, kind: "adapters" | "memories"): string {
  return join(dataDirectory, "tenants", kind);
}

export class TenantFiles {
  readonly #settings: TenantFilesSettings;

  constructor(settings: TenantFilesSettings) {
    this.#settings = settings;
  }

  /** Bound on a tenant's files together. */
  maximumBytes(tenant: string): number {
    return tenant === centroidTenant ? centroidBytes : this.#settings.tenantBytes;
  }

  /** Returns null if the file is missing or damaged. */
  async read(tenant: string, hash: string): Promise<Uint8Array | null> {
    const records = await this.records(tenant, hash);
    if (!records?.isFinished || !records.at(0)) return null;
    const contents: Uint8Array[] = [];
    let unyielded = 0;
    for (let place = 1; place < records.length - 1; place++) {
      const content = records.at(place);
      if (!content) return null;
      contents.push(content);
      unyielded += content.length;
      if (unyielded < yieldBytes) continue;
      unyielded = 0;
      await setImmediate();
    }
    return contents.length === 1 ? contents[0] : Buffer.concat(contents);
  }

  /** Returns null if the file cannot be read. */
  async records(tenant: string, hash: string, suffix = ""): Promise<SealedRecords | null> {
    // A file that cannot be read counts as missing. The edge then has it made or uploaded again.
    const most = this.maximumBytes(tenant);
    const bytes = await readFileAtMost(this.pathOf(tenant, hash) + suffix, most).catch(() => null);
    const key = bytes && bytes.length <= most ? await this.keyOf(tenant) : null;
    return bytes && key && new SealedRecords(key, hash, bytes);
  }

  /** Returns null if the file is missing or damaged. */
  async label(tenant: string, hash: string, suffix = ""): Promise<Buffer | null> {
    const key = await this.keyOf(tenant);
    const file = key && (await open(this.pathOf(tenant, hash) + suffix).catch(() => null));
    if (!file) return null;
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
      const length = bytesRead === 4 ? buffer.readUInt32LE() : 0;
      if (4 + length > (await file.stat()).size) return null;
      const record = await file.read(Buffer.alloc(4 + length), 0, 4 + length, 0);
      return new SealedRecords(key, hash, record.buffer).at(0);
    } finally {
      await file.close();
    }
  }

  async keyOf(tenant: string): Promise<Uint8Array | null> {
    const key = await readFileAtMost(this.keyPathOf(tenant), keyBytes).catch(() => null);
    return key?.length === keyBytes ? key : null;
  }

  keyPathOf(tenant: string): string {
    return join(this.folderOf(tenant), keyFile);
  }

  /** Throws an Error for a name that is no hash, so that no input can lead to another path. */
  pathOf(tenant: string, hash: string): string {
    if (!hashPattern.test(hash)) throw new Error("not a hash");
    return join(this.folderOf(tenant), hash);
  }

  folderOf(tenant: string): string {
    if (tenant !== centroidTenant && !tenantPattern.test(tenant)) throw new Error("not a tenant's id");
    return join(this.#settings.directory, createHash("sha256").update(tenant).digest("hex"));
  }

  async folders(): Promise<string[]> {
    const { directory } = this.#settings;
    const names = await readdir(directory).catch(() => []);
    return names.filter((name) => hashPattern.test(name)).map((name) => join(directory, name));
  }
}
