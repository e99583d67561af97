/** A tenant's files. The SealedStore encrypts their bytes. */
import { limits } from "../../shared/contracts/limits.ts";
import type { TenantParts } from "./backend-copies.ts";
import { type Refused, refused } from "./own-adapters.ts";
import { filesList } from "./record-lists.ts";

export interface FileRecord {
  id: string;
  filename: string;
  bytes: number;
  /** Unix time in seconds. */
  created: number;
}

const kind = "content";

export class TenantFiles {
  readonly #parts: TenantParts;

  constructor(parts: TenantParts) {
    this.#parts = parts;
  }

  /** Stores a file, or returns a refusal. `maxTenantBytes`: maximum bytes of all the tenant's files; null: no limit. */
  async add(file: FileRecord, content: Uint8Array, maxTenantBytes: number | null): Promise<Refused | null> {
    const { lists, sealed } = this.#parts;
    const refusedFirst = this.#refusal(file, maxTenantBytes);
    if (refusedFirst) return refusedFirst;
    const store = await sealed.seal(file.id, { [kind]: content });
    // Meanwhile, other files, or a repeated request's same file, may have been stored.
    if (lists.find(filesList, file.id)) return null;
    const refusedLast = this.#refusal(file, maxTenantBytes);
    if (refusedLast) return refusedLast;
    store();
    lists.add(filesList, file);
    return null;
  }

  #refusal({ bytes }: FileRecord, maxTenantBytes: number | null): Refused | null {
    const refuse = (message: string) => refused("adapter_quota_exceeded", message, "file");
    const { copies, lists } = this.#parts;
    if (copies.isJustErased()) return refuse("The tenant was erased a moment ago; nothing is stored for it now.");
    const files = lists.all<FileRecord>(filesList);
    const { filesPerTenant } = limits;
    if (files.length >= filesPerTenant) {
      return refuse(`You have ${files.length} files, the maximum is ${filesPerTenant}; delete one first.`);
    }
    const all = files.reduce((total, one) => total + one.bytes, bytes);
    if (maxTenantBytes === null || all <= maxTenantBytes) return null;
    return refuse(`Your files would have ${all} bytes together, the maximum is ${maxTenantBytes}; delete some first.`);
  }

  async content(id: string): Promise<Uint8Array | null> {
    const { lists, sealed } = this.#parts;
    return lists.find<FileRecord>(filesList, id) && sealed.compressed(id, kind);
  }

  remove(id: string): boolean {
    if (!this.#parts.lists.remove(filesList, id)) return false;
    this.#parts.sealed.delete(id);
    return true;
  }
}
