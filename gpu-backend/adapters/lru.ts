/** Bookkeeping of a byte-bounded cache: the least recently used entries are evicted first. Holds no values. Pure. */
export class LruPolicy {
  readonly #maximumBytes: number;
  /** Bytes of each entry, in order of use, oldest first. */
  readonly #entries = new Map<string, number>();
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

  /** Adds an entry as the most recently used. Call `evict` afterwards. */
  add(key: string, bytes: number): void {
    if (this.#entries.has(key)) throw new Error(`cache: ${key} is there already`);
    this.#entries.set(key, bytes);
    this.#bytes += bytes;
  }

  remove(key: string): void {
    this.#bytes -= this.#bytesOf(key);
    this.#entries.delete(key);
  }

  /** Marks an entry as just used. */
  touch(key: string): void {
    const bytes = this.#bytesOf(key);
    this.#entries.delete(key);
    this.#entries.set(key, bytes);
  }

  /** Drops entries until the bound holds, and returns their keys. */
  evict(): string[] {
    const dropped: string[] = [];
    for (const key of this.#entries.keys()) {
      if (this.#bytes <= this.#maximumBytes) break;
      this.remove(key);
      dropped.push(key);
    }
    return dropped;
  }

  #bytesOf(key: string): number {
    const bytes = this.#entries.get(key);
    if (bytes === undefined) throw new Error(`cache: no entry ${key}`);
    return bytes;
  }
}
