/**
 * How the ledgers of one tenant divide its limits. Pure: messages in, messages out.
 *
 * The tenant's own ledger (the root) lends each region's ledger a share of every limit. It counts a share as lent before the region
 * receives it, and as returned after the region has stopped using it. So all shares together never exceed the limit, whichever
 * messages are lost, repeated or reordered.
 *
 * A region asks for what it uses and needs plus one lease, a sixteenth of the limit. When nothing is free, the root recalls half of
 * what other regions hold and do not use. Reports of a region are numbered, and only the newest one is decided.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import type { Amounts, Share } from "./quota.ts";

export interface Report {
  /** Increases with each report of the region. */
  number: number;
  limits: TenantLimits;
  /** The region uses no more than this until it is answered. */
  held: Amounts;
  /** At least `held`. */
  wants: Amounts;
}

export interface Answer {
  /** Of the newest report that the root has seen of this region. */
  number: number;
  /** null: the report is older than that one, and was ignored. */
  share: Share | null;
}

export interface Lent {
  number: number;
  amounts: Amounts;
}

export const limitNames = ["requestsPerMinute", "tokensPerMinute", "concurrentRequests", "tokensPerMonth"] as const;
const leasesPerLimit = 16;

export const noAmounts: Amounts = amounts(() => 0);

/** The most of a limit that a region holds beyond its use. */
export function leaseOf(limit: number): number {
  return Math.ceil(limit / leasesPerLimit);
}

export function amounts(of: (limit: keyof TenantLimits) => number): Amounts {
  return Object.fromEntries(limitNames.map((name) => [name, of(name)])) as Amounts;
}

export function difference(a: Amounts, b: Amounts): Amounts {
  return amounts((limit) => a[limit] - b[limit]);
}

export function hasAny(some: Amounts): boolean {
  return limitNames.some((name) => some[name] > 0);
}

export function sameLimits(a: TenantLimits, b: TenantLimits): boolean {
  return limitNames.every((name) => a[name] === b[name]);
}

/** The root's side: what each region holds. */
export class Lender<Region extends string = string> {
  readonly #regions: Map<Region, Lent>;

  constructor(regions: Iterable<[Region, Lent]> = []) {
    this.#regions = new Map(regions);
  }

  get regions(): ReadonlyMap<Region, Lent> {
    return this.#regions;
  }

  /** The sum of what regions hold, without one of them. */
  lent(except?: Region): Amounts {
    const others = [...this.#regions].filter(([region]) => region !== except);
    return amounts((limit) => others.reduce((sum, [, lent]) => sum + lent.amounts[limit], 0));
  }

  /** The root's own share: all that is not lent. */
  share(limits: TenantLimits): Share {
    const lent = this.lent();
    return { own: amounts((limit) => Math.max(0, (limits[limit] ?? 0) - lent[limit])), elsewhere: lent };
  }

  /** How much of what the region wants is not free; `used`: the use that the root itself counts. */
  lacking(region: Region, { limits, wants }: Report, used: Amounts): Amounts {
    const lent = this.lent(region);
    return amounts((limit) => {
      const maximum = limits[limit];
      // More than the maximum may be lent after limits were lowered.
      return maximum === null ? 0 : Math.max(0, wants[limit] - (maximum - lent[limit] - used[limit]));
    });
  }

  /** Lends what is free. The caller stores `regions` before it sends the answer. */
  decide(region: Region, { number, limits, held, wants }: Report, used: Amounts): Answer {
    const known = this.#regions.get(region);
    if (known && number < known.number) return { number: known.number, share: null };
    const lent = this.lent(region);
    const elsewhere = amounts((limit) => lent[limit] + used[limit]);
    if (known?.number === number) return { number, share: { own: known.amounts, elsewhere } };
    const own = amounts((limit) => {
      const maximum = limits[limit];
      return maximum === null ? held[limit] : Math.max(held[limit], Math.min(wants[limit], maximum - elsewhere[limit]));
    });
    this.#regions.set(region, { number, amounts: own });
    return { number, share: { own, elsewhere } };
  }
}

export interface BorrowerState {
  number: number;
  share: Share;
  /** The tenant's limits when the share was lent. */
  limits: TenantLimits | null;
}

/** A region's side: what it holds. The caller stores `state` before it sends a report. */
export class Borrower {
  #state: BorrowerState;

  constructor(state: BorrowerState = { number: 0, share: { own: noAmounts, elsewhere: noAmounts }, limits: null }) {
    this.#state = state;
  }

  get state(): BorrowerState {
    return this.#state;
  }

  get share(): Share {
    return this.#state.share;
  }

  /**
   * Reports what the region holds, and wants its use, needs and one lease. If the limits have changed, it returns all that is
   * unused.
   */
  requestShare(limits: TenantLimits, used: Amounts, needs: Amounts): Report {
    const { number, share, limits: before } = this.#state;
    const isChanged = before === null || !sameLimits(before, limits);
    const held = amounts((limit) =>
      isChanged || limits[limit] === null ? used[limit] : Math.max(used[limit], share.own[limit]),
    );
    const wants = amounts((limit) => {
      const maximum = limits[limit];
      if (maximum === null || used[limit] + needs[limit] <= held[limit] - leaseOf(maximum) / 2) return held[limit];
      return Math.max(held[limit], Math.min(maximum, used[limit] + needs[limit] + leaseOf(maximum)));
    });
    this.#state = { number: number + 1, share: { ...share, own: held }, limits };
    return { number: number + 1, limits, held, wants };
  }

  /** Applies the root's answer. False if it is not that of the newest report. */
  applyAnswer({ number, share }: Answer): boolean {
    if (share && number === this.#state.number) {
      this.#state = { ...this.#state, share };
      return true;
    }
    // The root has seen a later report than this region remembers: its storage was lost.
    if (number > this.#state.number) this.#state = { ...this.#state, number };
    return false;
  }

  /** Returns half of what is held and unused to the root, up to `lacking`; null if there is none. */
  returnUnused(used: Amounts, lacking: Amounts): Report | null {
    const { number, share, limits } = this.#state;
    const returned = amounts((limit) =>
      Math.min(lacking[limit], Math.max(0, Math.ceil((share.own[limit] - used[limit]) / 2))),
    );
    if (limits === null || !hasAny(returned)) return null;
    const held = amounts((limit) => share.own[limit] - returned[limit]);
    this.#state = { number: number + 1, share: { ...share, own: held }, limits };
    return { number: number + 1, limits, held, wants: held };
  }
}
