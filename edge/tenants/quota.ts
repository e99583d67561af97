/**
 * Decides whether a tenant's next request may run, by what one ledger has counted. Pure: the clock is a parameter.
 *
 * Requests and tokens a minute are counted in seconds, and a second counts until 60 whole seconds have passed after it.
 * So no 60 seconds, wherever they begin, hold more than the limit, and 61 numbers are kept whatever the rate.
 * A request that is admitted counts. Then it reserves all the tokens that it may use, and it gives back what it did not use
 * when it is settled.
 *
 * A tenant has one ledger per region. Each admits up to its share of the limits (lease.ts).
 *
 * The clock is the system's, since a month is a month of the calendar. Where it is set back, what was counted in seconds to come
 * is taken as counted now, and reservations last no longer than from now on.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { setNewest } from "../platform/newest.ts";

const secondMs = 1000;
/** Retry-After of what other regions hold: they are asked for it once a second. */
const sharedRetryMs = secondMs;
const windowMs = 61 * secondMs;
/** A reservation that is neither settled nor renewed for this time belongs to an isolate that is gone. */
export const reservationMs = 120_000;
/** Retry-After of a refusal by requests at once: the end of a running request is unknown. */
const concurrencyRetryMs = 1000;
/** How long the id of a settled request is remembered: longer than the longest interval between two tries to settle it. */
export const settledMs = 15 * 60_000;
const rememberedMonths = 4;

/** An amount of each of the four limits. */
export type Amounts = Record<keyof TenantLimits, number>;

/** The part of a tenant's limits that one ledger may use. */
export interface Share {
  own: Amounts;
  /** What the tenant's other ledgers may use. */
  elsewhere: Amounts;
}

/** Why a request may not run. */
export interface Refusal {
  limit: keyof TenantLimits;
  maximum: number;
  /** In use here, this request not counted, or held by other ledgers. */
  used: number;
  asked: number;
  /** Time until it would fit if nothing else came; null: never. */
  retryAfterMs: number | null;
  /** True if other ledgers hold a part of the limit, which they may give back at any time. */
  isShared: boolean;
}

/** What is left of a limit. */
export interface Gauge {
  limit: number;
  remaining: number;
  /** Until all of it is there again, if nothing else came. */
  resetMs: number;
}

export interface Decision {
  refusal: Refusal | null;
  /** After this request, of the limits that the tenant has. */
  requests: Gauge | null;
  tokens: Gauge | null;
  /** The request was counted, and this decides about the tokens that it needs. */
  isOfTokens?: true;
}

interface Second {
  requests: number;
  tokens: number;
}

interface Reservation {
  /** When its tokens were reserved. */
  second: number;
  /** 0 until then. */
  tokens: number;
  leaseUntilMs: number;
}

/** All that a quota knows, for storage. */
export interface QuotaState {
  seconds: [number, Second][];
  open: [string, Reservation][];
  /** Tokens used by month, as `2026-11`; the month that was counted in last is the last one. */
  months: [string, number][];
  /** Settled requests, and until when each is remembered. */
  settled: [string, number][];
}

/** What changed since the last write; null: the entry is gone. */
export interface QuotaChanges {
  seconds: [number, Second | null][];
  open: [string, Reservation | null][];
  settled: [string, number | null][];
  /** null: unchanged. */
  months: QuotaState["months"] | null;
}

const emptyState: QuotaState = { seconds: [], open: [], months: [], settled: [] };

export class Quota {
  /** In order of time; those that have begun a minute ago or later. */
  readonly #seconds: Map<number, Second>;
  readonly #open: Map<string, Reservation>;
  /** In order of time. */
  readonly #settled: Map<string, number>;
  /** More than one, so that a clock that shows another month for a while does not give this one's tokens again. */
  readonly #months: Map<string, number>;
  #areMonthsChanged = false;
  readonly #changed = { seconds: new Set<number>(), open: new Set<string>(), settled: new Set<string>() };

  constructor(state: QuotaState = emptyState) {
    this.#seconds = new Map(state.seconds);
    this.#open = new Map(state.open);
    this.#settled = new Map(state.settled);
    this.#months = new Map(state.months);
  }

  get state(): QuotaState {
    return {
      seconds: [...this.#seconds],
      open: [...this.#open],
      months: [...this.#months],
      settled: [...this.#settled],
    };
  }

  /** Passes what changed since the last write to `write`. If that throws, it is passed to the next one, too. */
  writeChanges(write: (changes: QuotaChanges) => void): void {
    const { seconds, open, settled } = this.#changed;
    write({
      seconds: Array.from(seconds, (key): [number, Second | null] => [key, this.#seconds.get(key) ?? null]),
      open: Array.from(open, (key): [string, Reservation | null] => [key, this.#open.get(key) ?? null]),
      settled: Array.from(settled, (key): [string, number | null] => [key, this.#settled.get(key) ?? null]),
      months: this.#areMonthsChanged ? [...this.#months] : null,
    });
    this.#areMonthsChanged = false;
    for (const keys of [seconds, open, settled]) keys.clear();
  }

  isOpen(id: string): boolean {
    return this.#open.has(id);
  }

  /** What counts against each limit now. */
  used(nowMs: number): Amounts {
    this.#forget(nowMs);
    const { requests, tokens } = this.#counted();
    return {
      requestsPerMinute: requests,
      tokensPerMinute: tokens,
      concurrentRequests: this.#open.size,
      tokensPerMonth: this.#monthTokens(nowMs) + this.#reserved(),
    };
  }

  /**
   * Counts the request `id` and gives it a place, or says why not: then it counts nowhere. A month whose tokens are used
   * up, reservations aside, refuses every request until it is over. Without a `share` the ledger may use the whole limits.
   */
  admit(id: string, limits: TenantLimits, nowMs: number, share: Share | null = null): Decision {
    this.#forget(nowMs);
    const bounds = boundsOf(limits, share);
    const month = this.#monthTokens(nowMs);
    const refusal =
      refusalOf("tokensPerMonth", bounds, month, 1, () => nextMonthMs(nowMs) - nowMs) ??
      refusalOf("requestsPerMinute", bounds, this.#counted().requests, 1, (most) =>
        this.#roomMs("requests", 1, most, nowMs),
      ) ??
      refusalOf("concurrentRequests", bounds, this.#open.size, 1, () => concurrencyRetryMs);
    if (!refusal) this.#begin(id, 1, 0, nowMs);
    return this.#decision(refusal, limits, nowMs, share);
  }

  /** Reserves `tokens` for the request `id`, which was admitted, or says why not. */
  reserve(id: string, tokens: number, limits: TenantLimits, nowMs: number, share: Share | null = null): Decision {
    this.#forget(nowMs);
    const bounds = boundsOf(limits, share);
    const month = this.#monthTokens(nowMs) + this.#reserved();
    const refusal =
      refusalOf("tokensPerMonth", bounds, month, tokens, () => nextMonthMs(nowMs) - nowMs) ??
      refusalOf("tokensPerMinute", bounds, this.#counted().tokens, tokens, (most) =>
        this.#roomMs("tokens", tokens, most, nowMs),
      );
    if (!refusal) this.#begin(id, 0, tokens, nowMs);
    return this.#decision(refusal, limits, nowMs, share);
  }

  #begin(id: string, requests: number, tokens: number, nowMs: number): void {
    const second = this.#count({ requests, tokens }, nowMs);
    this.#open.set(id, { second, tokens, leaseUntilMs: nowMs + reservationMs });
    this.#changed.open.add(id);
  }

  #reserved(): number {
    return this.#open.values().reduce((sum, { tokens }) => sum + tokens, 0);
  }

  /** Counts in the second that is now, which is returned. */
  #count({ requests, tokens }: Second, nowMs: number): number {
    const second = Math.floor(nowMs / secondMs);
    const counted = this.#seconds.get(second) ?? { requests: 0, tokens: 0 };
    this.#seconds.set(second, { requests: counted.requests + requests, tokens: counted.tokens + tokens });
    this.#changed.seconds.add(second);
    return second;
  }

  #decision(refusal: Refusal | null, limits: TenantLimits, nowMs: number, share: Share | null): Decision {
    const elsewhere = share?.elsewhere;
    return {
      refusal,
      requests: this.#gauge("requests", limits.requestsPerMinute, elsewhere?.requestsPerMinute ?? 0, nowMs),
      tokens: this.#gauge("tokens", limits.tokensPerMinute, elsewhere?.tokensPerMinute ?? 0, nowMs),
    };
  }

  /** Says that the request still runs. False if it is settled, or unknown. */
  renew(id: string, nowMs: number): boolean {
    const reservation = this.#open.get(id);
    if (!reservation) return false;
    reservation.leaseUntilMs = nowMs + reservationMs;
    this.#changed.open.add(id);
    return true;
  }

  /** Counts tokens that were used without a reservation. */
  use(tokens: number, nowMs: number): void {
    if (tokens === 0) return;
    this.#areMonthsChanged = true;
    setNewest(this.#months, monthOf(nowMs), this.#monthTokens(nowMs) + tokens, rememberedMonths);
  }

  /** What was used in this month. */
  #monthTokens(nowMs: number): number {
    return this.#months.get(monthOf(nowMs)) ?? 0;
  }

  /**
   * Ends a request that used `tokens`. One without a reservation, or whose lease is over, is counted now. False if the
   * request was settled before: then nothing is counted. A release (`isFinal` false) may be followed by the use.
   */
  settle(id: string, tokens: number, nowMs: number, isFinal = true): boolean {
    this.#forget(nowMs);
    if (this.#settled.has(id)) return false;
    if (isFinal) {
      this.#settled.set(id, nowMs + settledMs);
      this.#changed.settled.add(id);
    }
    this.use(tokens, nowMs);
    const reservation = this.#open.get(id);
    if (!reservation) {
      if (tokens > 0) this.#count({ requests: 0, tokens }, nowMs);
      return true;
    }
    this.#open.delete(id);
    this.#changed.open.add(id);
    const second = this.#seconds.get(reservation.second);
    if (second) {
      second.tokens += tokens - reservation.tokens;
      this.#changed.seconds.add(reservation.second);
    }
    return true;
  }

  #counted(): Second {
    const sum = { requests: 0, tokens: 0 };
    for (const { requests, tokens } of this.#seconds.values()) {
      sum.requests += requests;
      sum.tokens += tokens;
    }
    return sum;
  }

  /** Until `asked` more fit. */
  #roomMs(unit: keyof Second, asked: number, limit: number, nowMs: number): number {
    let excess = this.#counted()[unit] + asked - limit;
    for (const [second, counted] of this.#seconds) {
      excess -= counted[unit];
      if (excess <= 0) return endMs(second) - nowMs;
    }
    return windowMs;
  }

  #gauge(unit: keyof Second, limit: number | null, elsewhere: number, nowMs: number): Gauge | null {
    if (limit === null) return null;
    const last = [...this.#seconds].findLast(([, counted]) => counted[unit] > 0);
    return {
      limit,
      remaining: Math.max(0, limit - elsewhere - this.#counted()[unit]),
      resetMs: last ? endMs(last[0]) - nowMs : 0,
    };
  }

  #forget(nowMs: number): void {
    this.#takeBackFuture(nowMs);
    for (const second of this.#seconds.keys()) {
      if (endMs(second) > nowMs) break;
      this.#seconds.delete(second);
      this.#changed.seconds.add(second);
    }
    for (const [id, { leaseUntilMs }] of this.#open) {
      if (leaseUntilMs > nowMs) continue;
      this.#open.delete(id);
      this.#changed.open.add(id);
    }
    for (const [id, untilMs] of this.#settled) {
      if (untilMs > nowMs) break;
      this.#settled.delete(id);
      this.#changed.settled.add(id);
    }
  }

  /** Moves what was counted in the future, before the clock was set back, to now. */
  #takeBackFuture(nowMs: number): void {
    const now = Math.floor(nowMs / secondMs);
    for (const [second, counted] of this.#seconds) {
      if (second <= now) continue;
      this.#seconds.delete(second);
      this.#changed.seconds.add(second);
      this.#count(counted, nowMs);
    }
    for (const [id, reservation] of this.#open) {
      if (reservation.second <= now && reservation.leaseUntilMs <= nowMs + reservationMs) continue;
      reservation.second = Math.min(reservation.second, now);
      reservation.leaseUntilMs = Math.min(reservation.leaseUntilMs, nowMs + reservationMs);
      this.#changed.open.add(id);
    }
  }
}

interface Bound {
  maximum: number;
  own: number;
  elsewhere: number;
}

/** What bounds each limit that the tenant has. */
function boundsOf(limits: TenantLimits, share: Share | null): (limit: keyof TenantLimits) => Bound | null {
  return (limit) => {
    const maximum = limits[limit];
    if (maximum === null) return null;
    return { maximum, own: Math.min(maximum, share?.own[limit] ?? maximum), elsewhere: share?.elsewhere[limit] ?? 0 };
  };
}

/** null where `asked` more fit beside what is `used`. `retryMs` gets the ledger's own share of the limit. */
function refusalOf(
  limit: keyof TenantLimits,
  bounds: (limit: keyof TenantLimits) => Bound | null,
  used: number,
  asked: number,
  retryMs: (own: number) => number,
): Refusal | null {
  const bound = bounds(limit);
  if (!bound || used + asked <= bound.own) return null;
  const { maximum, own, elsewhere } = bound;
  // Another region may give back what it holds at any time.
  const isHeldElsewhere = used + asked <= maximum;
  const retryAfterMs = asked > maximum ? null : isHeldElsewhere ? Math.min(retryMs(own), sharedRetryMs) : retryMs(own);
  const inUse = used + Math.min(elsewhere, Math.max(0, maximum - used));
  return { limit, maximum, used: inUse, asked, retryAfterMs, isShared: elsewhere > 0 };
}

/** When a second counts no more. */
function endMs(second: number): number {
  return second * secondMs + windowMs;
}

/** `2026-11`, UTC. */
function monthOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 7);
}

function nextMonthMs(ms: number): number {
  const date = new Date(ms);
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1);
}
