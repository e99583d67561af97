/** How many pool slots each tenant may pin. Pure. */

interface Pinning {
  readonly tenant: string;
  /** Adapters that need a pool slot while the sequence runs. */
  readonly poolAdapters: readonly string[];
}

/** Part of the slots, rounded down, that is reserved for tenants that pin none. */
const reservedShare = 1 / 4;

/** Slots that one tenant may pin. */
export const mostPoolSlots = (slots: number) => slots - Math.floor(slots * reservedShare);

/**
 * True if the pool holds the adapters of `next` beside those of `running`. A tenant that pins no slot may take its first one
 * of all that are free. Any other claim that pins more than its tenant pins already must leave the reserve unpinned, also
 * where another tenant pins the same adapter. So of 8 slots a tenant pins 6 at most, and a tenant's first slot is missing only
 * while at least 3 others pin slots. With fewer than 4 slots nothing is reserved.
 */
export function poolHolds(next: Pinning, running: Iterable<Pinning>, slots: number): boolean {
  const wanted = new Set(next.poolAdapters);
  const [own, pinned] = [new Set<string>(), new Set(wanted)];
  for (const { tenant, poolAdapters } of running) {
    for (const adapter of poolAdapters) {
      pinned.add(adapter);
      if (tenant === next.tenant) own.add(adapter);
    }
  }
  if (wanted.isSubsetOf(own)) return true;
  return pinned.size <= (own.size === 0 && wanted.size === 1 ? slots : mostPoolSlots(slots));
}
