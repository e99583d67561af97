/**
 * Decides which entries of a byte-bounded cache stay. Above the bound, the least recently used entry of the tenant that holds
 * most is dropped. A tenant's share is the bound divided by the tenants that hold anything, so a tenant within its share loses
 * nothing to others. Pure bookkeeping of keys and sizes.
 */

interface Holding {
  bytes: number;
  /** Bytes by key, in order of use, oldest first. */
  entries: Map<string, number>;
}

export class TenantShares {
  readonly #maximumBytes: number;
  /** Of each tenant that holds anything. */
  readonly #holdings = new Map<string, Holding>();
  #bytes = 0;

  constructor(maximumBytes: number) {
    this.#maximumBytes = maximumBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Tenants that hold anything. */
  get tenants(): number {
    return this.#holdings.size;
  }

  bytesOf(tenant: string): number {
    return this.#holdings.get(tenant)?.bytes ?? 0;
  }

  /** Adds an entry as the tenant's most recently used. Call `evict` afterwards. */
  add(tenant: string, key: string, bytes: number): void {
    const holding = this.#holdings.get(tenant) ?? { bytes: 0, entries: new Map() };
    if (holding.entries.has(key)) throw new Error(`cache: ${key} is there already`);
    this.#holdings.set(tenant, holding);
    holding.entries.set(key, bytes);
    this.#change(tenant, holding, bytes);
  }

  remove(tenant: string, key: string): void {
    const { holding, bytes } = this.#entryOf(tenant, key);
    holding.entries.delete(key);
    this.#change(tenant, holding, -bytes);
  }

  /** Marks an entry as just used. */
  touch(tenant: string, key: string): void {
    const { holding, bytes } = this.#entryOf(tenant, key);
    holding.entries.delete(key);
    holding.entries.set(key, bytes);
  }

  /** Drops entries until the bound holds, and returns their keys. */
  evict(): string[] {
    const dropped: string[] = [];
    while (this.#bytes > this.#maximumBytes) {
      const [tenant, { entries }] = this.#largest();
      const [oldest] = entries.keys();
      this.remove(tenant, oldest);
      dropped.push(oldest);
    }
    return dropped;
  }

  #largest(): [string, Holding] {
    return [...this.#holdings].reduce((max, one) => (one[1].bytes > max[1].bytes ? one : max));
  }

  #change(tenant: string, holding: Holding, bytes: number): void {
    holding.bytes += bytes;
    this.#bytes += bytes;
    if (holding.entries.size === 0) this.#holdings.delete(tenant);
  }

  #entryOf(tenant: string, key: string): { holding: Holding; bytes: number } {
    const holding = this.#holdings.get(tenant);
    const bytes = holding?.entries.get(key);
    if (!holding || bytes === undefined) throw new Error(`cache: tenant ${tenant} has no entry ${key}`);
    return { holding, bytes };
  }
}
