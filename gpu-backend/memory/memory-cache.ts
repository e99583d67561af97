/** Keeps memories open for search, up to a number of bytes. Sequences pin the memories that they read. */
import { centroidTenant } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import { type MemoryShape, setByteRanges, unpackMemory } from "./memory.ts";
import { type MemorySearch, openMemorySearch } from "./search.ts";

export interface MemoryCacheParts {
  source: { read(tenant: string, hash: string): Promise<Uint8Array | null> };
  shape: MemoryShape;
  /** Only needed for centroids' memories. */
  textPieceOf?(id: number): Uint8Array;
  neighbours: number;
  threads: number;
  /** Bound on all open memories. A single memory may exceed the bound, and so may centroids' memories, so that nobody is refused for them. */
  maximumBytes: number;
}

export interface OpenMemory {
  readonly tenant: string;
  readonly hash: string;
  readonly search: MemorySearch;
}

interface Entry {
  readonly tenant: string;
  readonly hash: string;
  search: MemorySearch | null;
  /** 0 until the size is known. */
  bytes: number;
  /** Number of sequences that read the memory or wait for it. */
  pins: number;
  isDeleted: boolean;
  /** Resolves even if the memory cannot be opened. */
  opened: Promise<void>;
}

/** Keys are in memory twice: in a session, and in an array for exact cosines. */
const copies = 2;

export class MemoryCache {
  readonly #parts: MemoryCacheParts;
  /** By tenant and hash, least recently used first. */
  readonly #entries = new Map<string, Entry>();
  /** The last opening, because memories are opened one by one. */
  #last: Promise<unknown> = Promise.resolve();
  readonly #counts = { opened: 0, evictions: 0 };

  constructor(parts: MemoryCacheParts) {
    this.#parts = parts;
  }

  /** Also true while the memory is being opened. */
  isOpen(tenant: string, hash: string): boolean {
    return this.#entries.has(`${tenant}/${hash}`);
  }

  get stats() {
    const entries = this.#entries.values().filter(({ search }) => search);
    return { entries: [...entries].length, bytes: this.#bytes, pinnedBytes: this.#pinnedBytes, ...this.#counts };
  }

  /** Opens and pins a memory. Throws `memory_not_found`, `memory_deleted`, or `overloaded` if pinned memories leave no room. */
  async acquire(tenant: string, hash: string): Promise<OpenMemory> {
    const key = `${tenant}/${hash}`;
    let entry = this.#entries.get(key);
    if (!entry) {
      const opened = Promise.resolve();
      const added: Entry = { tenant, hash, search: null, bytes: 0, pins: 0, isDeleted: false, opened };
      added.opened = this.#last.then(() => this.#open(added));
      this.#last = added.opened.catch(() => this.#forget(key, added));
      entry = added;
    }
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    entry.pins++;
    await entry.opened;
    return entry as OpenMemory;
  }

  release(memory: OpenMemory): void {
    const entry = memory as Entry & OpenMemory;
    entry.pins--;
    if (entry.isDeleted && entry.pins === 0) void entry.search.release();
    this.#evict();
  }

  /** If `hash` is null, deletes all memories of the tenant. A pinned memory is closed when its last sequence ends. */
  delete(tenant: string, hash: string | null): void {
    for (const [key, entry] of this.#entries) {
      if (entry.tenant === tenant && (hash === null || entry.hash === hash)) this.#forget(key, entry);
    }
  }

  get #bytes(): number {
    return this.#entries.values().reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get #pinnedBytes(): number {
    const pinned = this.#entries.values().filter(({ pins, tenant }) => pins > 0 && tenant !== centroidTenant);
    return pinned.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async #open(entry: Entry): Promise<void> {
    const { source, shape, neighbours, threads, maximumBytes } = this.#parts;
    const { tenant, hash } = entry;
    const file = await source.read(tenant, hash);
    if (entry.isDeleted) throw memoryDeleted(hash);
    if (!file) throw new ServiceError("memory_not_found", `There is no memory ${hash} of this tenant.`);
    const bytes = copies * file.length;
    const pinned = this.#pinnedBytes;
    if (tenant !== centroidTenant && pinned > 0 && pinned + bytes > maximumBytes) {
      throw new ServiceError(
        "overloaded",
        `The memory takes ${bytes} bytes; those that answers read take ${pinned} of ${maximumBytes}.`,
        { retryAfterSeconds: 1 },
      );
    }
    entry.bytes = bytes;
    this.#evict();
    const { hiddenSize } = shape;
    const memory = unpackMemory(file, shape);
    if (tenant === centroidTenant) setByteRanges(memory, this.#parts.textPieceOf!);
    const search = await openMemorySearch(memory, { hiddenSize, neighbours, threads });
    if (entry.isDeleted) {
      await search.release();
      throw memoryDeleted(hash);
    }
    this.#counts.opened++;
    entry.search = search;
  }

  #evict(): void {
    let total = this.#bytes;
    for (const [key, entry] of this.#entries) {
      if (total <= this.#parts.maximumBytes) return;
      if (entry.pins > 0) continue;
      total -= entry.bytes;
      this.#counts.evictions++;
      this.#forget(key, entry);
    }
  }

  #forget(key: string, entry: Entry): void {
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
    entry.isDeleted = true;
    if (entry.pins === 0) void entry.search?.release();
  }
}

export function memoryDeleted(hash: string): ServiceError {
  return new ServiceError("memory_deleted", `The memory ${hash} was deleted; the answer read it.`);
}
