/** A cache with a bound on its bytes. Drops the least recently used entries first. */
export class LruCache<Value> {
  readonly #maximumBytes: number;
  readonly #entries = new Map<string, { value: Value; bytes: number }>();
  #bytes = 0;

  constructor(maximumBytes: number) {
    this.#maximumBytes = maximumBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#entries.size;
  }

  get keys(): string[] {
    return [...this.#entries.keys()];
  }

  get(key: string): Value | undefined {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.value;
  }

  /** Returns how many entries were dropped. An entry that exceeds the bound is dropped itself. */
  set(key: string, value: Value, bytes: number): number {
    this.delete(key);
    this.#entries.set(key, { value, bytes });
    this.#bytes += bytes;
    let dropped = 0;
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes <= this.#maximumBytes) break;
      this.delete(oldest);
      dropped++;
    }
    return dropped;
  }

  delete(key: string): void {
    this.#bytes -= this.#entries.get(key)?.bytes ?? 0;
    this.#entries.delete(key);
  }
}
