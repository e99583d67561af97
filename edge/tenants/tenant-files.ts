/** The files that a tenant has uploaded, in its Durable Object; their bytes are sealed (sealed-store.ts). */
import { limits } from "../../shared/contracts/limits.ts";
import { filesList, type RecordLists } from "./record-lists.ts";
import type { SealedStore } from "./sealed-store.ts";
import type { Refused } from "./tenant-memories.ts";

export interface FileRecord {
  id: string;
  filename: string;
  bytes: number;
  /** Unix time in seconds. */
  created: number;
}

const kind = "content";

interface FileParts {
  lists: RecordLists;
  sealed: SealedStore;
  /** The tenant was erased a moment ago, so a file may have been sent before. */
  isJustErased(): boolean;
}

export class TenantFiles {
  readonly #parts: FileParts;

  constructor(parts: FileParts) {
    this.#parts = parts;
  }

  /** Stores a file, or returns why not. `maxTenantBytes`: most bytes of all files of the tenant; null: no limit. */
  async add(file: FileRecord, content: Uint8Array, maxTenantBytes: number | null): Promise<Refused | null> {
    const refused = this.#refusal(file, maxTenantBytes);
    if (refused) return refused;
    const store = await this.#parts.sealed.seal(file.id, { [kind]: content });
    // Others may have been stored meanwhile, or this one by a repeated request.
    if (this.#parts.lists.find(filesList, file.id)) return null;
    const refusedLast = this.#refusal(file, maxTenantBytes);
    if (refusedLast) return refusedLast;
    store();
    this.#parts.lists.add(filesList, file);
    return null;
  }

  #refusal({ bytes }: FileRecord, maxTenantBytes: number | null): Refused | null {
    const refuse = (message: string): Refused => ({ kind: "adapter_quota_exceeded", message, param: "file" });
    if (this.#parts.isJustErased()) return refuse("The tenant was erased a moment ago; nothing is stored for it now.");
    const files = this.#parts.lists.all<FileRecord>(filesList);
    const { filesPerTenant } = limits;
    if (files.length >= filesPerTenant) {
      return refuse(`You have ${files.length} files, the maximum is ${filesPerTenant}; delete one first.`);
    }
    const all = files.reduce((total, one) => total + one.bytes, bytes);
    if (maxTenantBytes === null || all <= maxTenantBytes) return null;
    return refuse(`Your files would have ${all} bytes together, the maximum is ${maxTenantBytes}; delete some first.`);
  }

  /** The bytes of a file, compressed by gzip; null if there is none of this id. */
  async content(id: string): Promise<Uint8Array | null> {
    return this.#parts.lists.find<FileRecord>(filesList, id) && this.#parts.sealed.compressed(id, kind);
  }

  /** False if there is no such file. */
  remove(id: string): boolean {
    if (!this.#parts.lists.remove(filesList, id)) return false;
    this.#parts.sealed.delete(id);
    return true;
  }
}
