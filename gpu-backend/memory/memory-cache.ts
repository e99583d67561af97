/**
 * Memories that are open for search: bounded by bytes, the least recently used closed first. A memory that a sequence reads is
 * pinned. Not here: where their bytes come from.
 */
import { ServiceError } from "../../shared/errors.ts";
import { type MemoryShape, type MemorySource, unpackMemory } from "./memory.ts";
import { MemorySearch } from "./search.ts";

export interface MemoryCacheParts {
  source: MemorySource;
  shape: MemoryShape;
  /** Nearest keys that a search gives. */
  neighbours: number;
  threads: number;
  /** Bound on the bytes of open memories. One alone may exceed it. */
  maximumBytes: number;
}

/** A memory that a sequence reads, until it is released. */
export interface OpenMemory {
  readonly tenant: string;
  readonly hash: string;
  readonly search: MemorySearch;
}

export interface MemoryCacheStats {
  entries: number;
  bytes: number;
  /** Of those that sequences read. */
  pinnedBytes: number;
  hits: number;
  opened: number;
  evictions: number;
}

interface Entry extends OpenMemory {
  readonly bytes: number;
  /** How many sequences read it. */
  pins: number;
  isDeleted: boolean;
}

/** A memory that is being opened. */
interface Opening {
  readonly tenant: string;
  readonly entry: Promise<Entry>;
  /** How many sequences wait for it. */
  waiting: number;
  isDeleted: boolean;
}

/** The keys are in memory twice: in a session, and here, to compute cosines of. */
const copies = 2;

export class MemoryCache {
  readonly #parts: MemoryCacheParts;
  /** By tenant and hash, least recently used first. */
  readonly #entries = new Map<string, Entry>();
  readonly #opening = new Map<string, Opening>();
  /** Settles when the last of those is open: one is opened at a time. */
  #last: Promise<unknown> = Promise.resolve();
  readonly #counts = { hits: 0, opened: 0, evictions: 0 };

  constructor(parts: MemoryCacheParts) {
    this.#parts = parts;
  }

  get stats(): MemoryCacheStats {
    const entries = [...this.#entries.values()];
    const bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0);
    return { entries: entries.length, bytes, pinnedBytes: this.#pinnedBytes, ...this.#counts };
  }

  /**
   * Opens a tenant's memory and pins it. Throws a ServiceError: `memory_not_found`, `memory_deleted` if it was deleted meanwhile, or
   * `overloaded` if the pinned ones leave no room for it.
   */
  async acquire(tenant: string, hash: string): Promise<OpenMemory> {
    const key = `${tenant}/${hash}`;
    const known = this.#entries.get(key);
    if (known) {
      this.#counts.hits++;
      known.pins++;
      this.#entries.delete(key);
      this.#entries.set(key, known);
      return known;
    }
    let opening = this.#opening.get(key);
    if (!opening) {
      const entry = this.#last.then(() => this.#open(tenant, hash)).finally(() => this.#opening.delete(key));
      this.#last = entry.catch(() => undefined);
      opening = { tenant, entry, waiting: 0, isDeleted: false };
      this.#opening.set(key, opening);
    }
    opening.waiting++;
    return opening.entry;
  }

  /** Ends a pin of `acquire`. */
  release(memory: OpenMemory): void {
    const entry = memory as Entry;
    entry.pins--;
    if (entry.isDeleted && entry.pins === 0) void entry.search.release();
    this.#evict();
  }

  /** Forgets a tenant's memory, or all of them (null). Those that sequences read are closed when the last of these ends. */
  delete(tenant: string, hash: string | null): void {
    const isMeant = (key: string, whose: string) => whose === tenant && (hash === null || key === `${tenant}/${hash}`);
    for (const [key, opening] of this.#opening) if (isMeant(key, opening.tenant)) opening.isDeleted = true;
    for (const [key, entry] of this.#entries) if (isMeant(key, entry.tenant)) this.#forget(key, entry);
  }

  get #pinnedBytes(): number {
    return this.#entries.values().reduce((sum, { pins, bytes }) => sum + (pins > 0 ? bytes : 0), 0);
  }

  async #open(tenant: string, hash: string): Promise<Entry> {
    const { source, shape, neighbours, threads, maximumBytes } = this.#parts;
    const key = `${tenant}/${hash}`;
    const file = await source.read(tenant, hash);
    const opening = this.#opening.get(key)!;
    if (opening.isDeleted) throw memoryDeleted(hash);
    if (!file) throw new ServiceError("memory_not_found", `There is no memory ${hash} of this tenant.`);
    const bytes = copies * file.length;
    const pinned = this.#pinnedBytes;
    if (pinned > 0 && pinned + bytes > maximumBytes) {
      throw new ServiceError(
        "overloaded",
        `The memory takes ${bytes} bytes; those that answers read take ${pinned} of ${maximumBytes}.`,
        { retryAfterSeconds: 1 },
      );
    }
    this.#evict(bytes);
    const { hiddenSize } = shape;
    const search = await MemorySearch.open(unpackMemory(file, shape), { hiddenSize, neighbours, threads });
    if (opening.isDeleted) {
      await search.release();
      throw memoryDeleted(hash);
    }
    this.#counts.opened++;
    const entry = { tenant, hash, search, bytes, pins: opening.waiting, isDeleted: false };
    this.#entries.set(key, entry);
    // Who asks from now on finds it among the entries.
    this.#opening.delete(key);
    return entry;
  }

  /** Closes memories that nobody reads until there is room for `bytes`. */
  #evict(bytes = 0): void {
    let total = this.#entries.values().reduce((sum, entry) => sum + entry.bytes, bytes);
    for (const [key, entry] of this.#entries) {
      if (total <= this.#parts.maximumBytes) return;
      if (entry.pins > 0) continue;
      total -= entry.bytes;
      this.#counts.evictions++;
      this.#forget(key, entry);
    }
  }

  #forget(key: string, entry: Entry): void {
    this.#entries.delete(key);
    entry.isDeleted = true;
    if (entry.pins === 0) void entry.search.release();
  }
}

export function memoryDeleted(hash: string): ServiceError {
  return new ServiceError("memory_deleted", `The memory ${hash} was deleted; the answer read it.`);
}
