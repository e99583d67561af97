/** Bookkeeping of a byte-bounded cache: the least recently used unpinned entries are evicted first. Holds no values. Pure. */

interface Entry {
  bytes: number;
  pins: number;
}

/** Least recently used first out. Pinned entries stay, so `bytes` exceeds the bound only while pins alone do. */
export class LruPolicy {
  readonly #maximumBytes: number;
  /** In order of use, oldest first. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(maximumBytes: number) {
    this.#maximumBytes = maximumBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /** Adds an unpinned entry as the most recently used. Call `evict` afterwards. */
  add(key: string, bytes: number): void {
    if (this.#entries.has(key)) throw new Error(`cache: ${key} is there already`);
    this.#entries.set(key, { bytes, pins: 0 });
    this.#bytes += bytes;
  }

  /** Takes an unpinned entry out. */
  remove(key: string): void {
    const { bytes, pins } = this.#entryOf(key);
    if (pins > 0) throw new Error(`cache: ${key} is pinned`);
    this.#entries.delete(key);
    this.#bytes -= bytes;
  }

  /** Marks an entry as just used. */
  touch(key: string): void {
    const entry = this.#entryOf(key);
    this.#entries.delete(key);
    this.#entries.set(key, entry);
  }

  /** Marks an entry as just used and keeps it until it is unpinned as often as pinned. */
  pin(key: string): void {
    const entry = this.#entryOf(key);
    entry.pins++;
    this.touch(key);
  }

  unpin(key: string): void {
    const entry = this.#entryOf(key);
    if (entry.pins === 0) throw new Error(`cache: ${key} is not pinned`);
    entry.pins--;
  }

  /** Drops entries until the bound holds or only pinned ones are left, and returns their keys. */
  evict(): string[] {
    const dropped: string[] = [];
    for (const [key, entry] of this.#entries) {
      if (this.#bytes <= this.#maximumBytes) break;
      if (entry.pins > 0) continue;
      this.#entries.delete(key);
      this.#bytes -= entry.bytes;
      dropped.push(key);
    }
    return dropped;
  }

  #entryOf(key: string): Entry {
    const entry = this.#entries.get(key);
    if (!entry) throw new Error(`cache: no entry ${key}`);
    return entry;
  }
}
