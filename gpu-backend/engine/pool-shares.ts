/**
 * How many pool slots each tenant may pin. Pure.
 *
 * A quarter of the slots, rounded down, is reserved for tenants that pin none. A sequence that needs one slot, of a tenant
 * that pins none, may use the reserve. Any other claim that pins more than its tenant pins already must leave the reserve
 * unpinned, also where another tenant pins the same adapter. So of 8 slots a tenant pins 6 at most, and
 * a tenant's first slot is missing only while at least 3 other tenants (the reserve and one more) pin slots. With
 * fewer than 4 slots nothing is reserved.
 */
const reservedShare = 1 / 4;

export type Fit =
  /** Pins no slot that its tenant does not pin already. */
  | "pinned"
  /** The only slot of its tenant. */
  | "first"
  /** More slots, and the reserve stays unpinned. */
  | "more"
  | "none";

export class PoolShares {
  readonly #slots: number;
  readonly #reserved: number;
  /** By tenant: how many of its sequences pin each adapter. */
  readonly #pins = new Map<string, Map<string, number>>();

  constructor(slots: number) {
    this.#slots = slots;
    this.#reserved = Math.floor(slots * reservedShare);
  }

  /** Slots that one tenant may pin. */
  get most(): number {
    return this.#slots - this.#reserved;
  }

  pinsNone(tenant: string): boolean {
    return !this.#pins.has(tenant);
  }

  /** How the slots of these adapters fit what is pinned. */
  fitOf(tenant: string, hashes: ReadonlySet<string>): Fit {
    const own = this.#pins.get(tenant);
    if ([...hashes].every((hash) => own?.has(hash))) return "pinned";
    const pinned = new Set([...this.#pins.values()].flatMap((pins) => [...pins.keys()]));
    const unpinned = this.#slots - pinned.union(hashes).size;
    if (!own && hashes.size === 1) return unpinned >= 0 ? "first" : "none";
    return unpinned >= this.#reserved ? "more" : "none";
  }

  pin(tenant: string, hash: string): void {
    const own = this.#pins.get(tenant) ?? new Map<string, number>();
    this.#pins.set(tenant, own.set(hash, (own.get(hash) ?? 0) + 1));
  }

  /** Undoes one `pin`. */
  unpin(tenant: string, hash: string): void {
    const own = this.#pins.get(tenant);
    const count = own?.get(hash);
    if (!own || !count) throw new Error(`tenant ${tenant} does not pin ${hash}`);
    if (count > 1) own.set(hash, count - 1);
    else own.delete(hash);
    if (own.size === 0) this.#pins.delete(tenant);
  }
}
