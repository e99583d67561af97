/**
 * Decides whether a tenant's next request may run, by what its ledger has counted. Pure: the clock is a parameter.
 *
 * Requests and tokens per minute are counted by second. A second counts until 60 whole seconds have passed after it, so no 60 seconds
 * exceed a limit, wherever they begin, and 61 counts are enough at any rate. An admitted request counts and reserves all the tokens
 * that it may use; settling it frees the unused ones.
 *
 * The clock is the system's, because tokens per month follow the calendar. If it is set back, counts of later seconds move to the
 * present one, reservations end at most `reservationMs` from now, and settled ids are forgotten at most `settledMs` from now.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { setNewest } from "../platform/newest.ts";

const secondMs = 1000;
const windowMs = 61 * secondMs;
/** Lease of a reservation, in milliseconds. If it is neither settled nor renewed by then, its isolate is gone. */
export const reservationMs = 120_000;
/** Retry-After of a refusal by concurrent requests, in milliseconds; when a running request ends is unknown. */
const concurrencyRetryMs = 1000;
/** How long the id of a settled request is stored, in milliseconds: longer than the longest pause between two tries to settle it. */
export const settledMs = 15 * 60_000;
/** Months that are stored: several, so that a clock that is wrong for a while does not reset the use of this month. */
const maxMonths = 4;

/** Why a request may not run. */
export interface Refusal {
  limit: keyof TenantLimits;
  maximum: number;
  /** The amount that other requests use. */
  used: number;
  requested: number;
  /** Milliseconds until this request would fit if no other request came; null: never. */
  retryAfterMs: number | null;
}

/** How much of a limit remains. */
export interface Gauge {
  limit: number;
  remaining: number;
  /** Milliseconds until the whole limit is available if no other request comes. */
  resetMs: number;
}

export interface Decision {
  refusal: Refusal | null;
  /** State of the limit of requests per minute after this request; null: the tenant has no such limit. */
  requests: Gauge | null;
  tokens: Gauge | null;
  /** The request was counted, and this decision is about its tokens. */
  isOfTokens?: true;
}

interface Second {
  requests: number;
  tokens: number;
}

interface Reservation {
  /** The second in which its tokens were reserved. */
  second: number;
  /** 0 until the tokens are reserved. */
  tokens: number;
  leaseUntilMs: number;
}

export interface QuotaState {
  seconds: [number, Second][];
  open: [string, Reservation][];
  /** Tokens used by month (`2026-11`); the month with the latest use is last. */
  months: [string, number][];
  /** Settled requests, and until when each is remembered. */
  settled: [string, number][];
}

/** An entry that changed since the last write; `value` undefined: it was deleted. */
export interface QuotaChange {
  kind: keyof QuotaState;
  key: string | number;
  value: unknown;
}

const emptyState: QuotaState = { seconds: [], open: [], months: [], settled: [] };

/** A map that records which entries changed. */
class TrackedMap<Key, Value> extends Map<Key, Value> {
  readonly changed = new Set<Key>();

  constructor(entries: readonly [Key, Value][]) {
    super();
    for (const [key, value] of entries) super.set(key, value);
  }

  override set(key: Key, value: Value): this {
    this.changed.add(key);
    return super.set(key, value);
  }

  override delete(key: Key): boolean {
    this.changed.add(key);
    return super.delete(key);
  }
}

export class Quota {
  /** The last 61 seconds, in order. */
  readonly #seconds: TrackedMap<number, Second>;
  readonly #open: TrackedMap<string, Reservation>;
  /** In order of time. */
  readonly #settled: TrackedMap<string, number>;
  readonly #months: TrackedMap<string, number>;
  /** The clock at the last call. */
  #lastMs = Number.POSITIVE_INFINITY;

  constructor(state: QuotaState = emptyState) {
    this.#seconds = new TrackedMap(state.seconds);
    this.#open = new TrackedMap(state.open);
    this.#settled = new TrackedMap(state.settled);
    this.#months = new TrackedMap(state.months);
  }

  get state(): QuotaState {
    return {
      seconds: [...this.#seconds],
      open: [...this.#open],
      months: [...this.#months],
      settled: [...this.#settled],
    };
  }

  /** Passes the changes since the last write to `write`. If that throws, the next write gets them, too. */
  writeChanges(write: (changes: QuotaChange[]) => void): void {
    const maps: Record<keyof QuotaState, TrackedMap<string | number, unknown>> = {
      ...{ seconds: this.#seconds, open: this.#open, months: this.#months, settled: this.#settled },
    };
    const kinds = Object.keys(maps) as (keyof QuotaState)[];
    write(
      kinds.flatMap((kind) => Array.from(maps[kind].changed, (key) => ({ kind, key, value: maps[kind].get(key) }))),
    );
    for (const kind of kinds) maps[kind].changed.clear();
  }

  /** Whether a request was admitted and not settled yet. */
  isOpen(id: string): boolean {
    return this.#open.has(id);
  }

  isSettled(id: string): boolean {
    return this.#settled.has(id);
  }

  /** Admits the request `id`, or refuses it; a refused request counts nowhere. Without tokens left in the month, all are refused. */
  admit(id: string, limits: TenantLimits, nowMs: number): Decision {
    this.#expire(nowMs);
    const month = this.#monthTokens(nowMs);
    const refusal =
      refusalOf("tokensPerMonth", limits, month, 1, () => nextMonthMs(nowMs) - nowMs) ??
      refusalOf("requestsPerMinute", limits, this.#counted().requests, 1, (maximum) =>
        this.#roomMs("requests", 1, maximum, nowMs),
      ) ??
      refusalOf("concurrentRequests", limits, this.#open.size, 1, () => concurrencyRetryMs);
    if (!refusal) this.#begin(id, 1, 0, nowMs);
    return this.#decision(refusal, limits, nowMs);
  }

  /** Reserves `tokens` for the admitted request `id`, or refuses it. */
  reserve(id: string, tokens: number, limits: TenantLimits, nowMs: number): Decision {
    this.#expire(nowMs);
    const reserved = this.#open.values().reduce((sum, one) => sum + one.tokens, 0);
    const month = this.#monthTokens(nowMs) + reserved;
    const refusal =
      refusalOf("tokensPerMonth", limits, month, tokens, () => nextMonthMs(nowMs) - nowMs) ??
      refusalOf("tokensPerMinute", limits, this.#counted().tokens, tokens, (maximum) =>
        this.#roomMs("tokens", tokens, maximum, nowMs),
      );
    if (!refusal) this.#begin(id, 0, tokens, nowMs);
    return this.#decision(refusal, limits, nowMs);
  }

  #begin(id: string, requests: number, tokens: number, nowMs: number): void {
    const second = this.#count({ requests, tokens }, nowMs);
    this.#open.set(id, { second, tokens, leaseUntilMs: nowMs + reservationMs });
  }

  /** Counts in the present second, and returns it. */
  #count({ requests, tokens }: Second, nowMs: number): number {
    const second = Math.floor(nowMs / secondMs);
    const counted = this.#seconds.get(second) ?? { requests: 0, tokens: 0 };
    this.#seconds.set(second, { requests: counted.requests + requests, tokens: counted.tokens + tokens });
    return second;
  }

  #decision(refusal: Refusal | null, limits: TenantLimits, nowMs: number): Decision {
    return {
      refusal,
      requests: this.#gauge("requests", limits.requestsPerMinute, nowMs),
      tokens: this.#gauge("tokens", limits.tokensPerMinute, nowMs),
    };
  }

  /** Extends the reservation of a running request. False if it is settled, or unknown. */
  renew(id: string, nowMs: number): boolean {
    const reservation = this.#open.get(id);
    if (!reservation) return false;
    this.#open.set(id, { ...reservation, leaseUntilMs: nowMs + reservationMs });
    return true;
  }

  /** Tokens used in the present month. */
  #monthTokens(nowMs: number): number {
    return this.#months.get(monthOf(nowMs)) ?? 0;
  }

  /**
   * Ends a request that used `tokens`, of which the month counts `monthTokens`. Without a reservation, or after its lease, the tokens
   * count in the present second. False if the request was settled before: then nothing is counted. `isFinal` false only releases the
   * reservation: a later call may still bring the use.
   */
  settle(id: string, tokens: number, nowMs: number, isFinal = true, monthTokens = tokens): boolean {
    this.#expire(nowMs);
    if (this.#settled.has(id)) return false;
    if (isFinal) this.#settled.set(id, nowMs + settledMs);
    if (monthTokens > 0) {
      setNewest(this.#months, monthOf(nowMs), this.#monthTokens(nowMs) + monthTokens, maxMonths);
    }
    const reservation = this.#open.get(id);
    if (!reservation) {
      if (tokens > 0) this.#count({ requests: 0, tokens }, nowMs);
      return true;
    }
    this.#open.delete(id);
    const second = this.#seconds.get(reservation.second);
    if (second) {
      const counted = second.tokens + tokens - reservation.tokens;
      this.#seconds.set(reservation.second, { ...second, tokens: counted });
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

  /** Time until `requested` more fit. */
  #roomMs(unit: keyof Second, requested: number, limit: number, nowMs: number): number {
    let excess = this.#counted()[unit] + requested - limit;
    for (const [second, counted] of this.#seconds) {
      excess -= counted[unit];
      if (excess <= 0) return endMs(second) - nowMs;
    }
    return windowMs;
  }

  #gauge(unit: keyof Second, limit: number | null, nowMs: number): Gauge | null {
    if (limit === null) return null;
    const last = [...this.#seconds].findLast(([, counted]) => counted[unit] > 0);
    return {
      limit,
      remaining: Math.max(0, limit - this.#counted()[unit]),
      resetMs: last ? endMs(last[0]) - nowMs : 0,
    };
  }

  #expire(nowMs: number): void {
    this.#moveFutureToNow(nowMs);
    for (const second of this.#seconds.keys()) {
      if (endMs(second) > nowMs) break;
      this.#seconds.delete(second);
    }
    for (const [id, { leaseUntilMs }] of this.#open) if (leaseUntilMs <= nowMs) this.#open.delete(id);
    for (const [id, untilMs] of this.#settled) {
      if (untilMs > nowMs) break;
      this.#settled.delete(id);
    }
  }

  /** Moves counts of the future to now, after the clock was set back. */
  #moveFutureToNow(nowMs: number): void {
    const now = Math.floor(nowMs / secondMs);
    for (const [second, counted] of this.#seconds) {
      if (second <= now) continue;
      this.#seconds.delete(second);
      this.#count(counted, nowMs);
    }
    for (const [id, reservation] of this.#open) {
      if (reservation.second <= now && reservation.leaseUntilMs <= nowMs + reservationMs) continue;
      const second = Math.min(reservation.second, now);
      const leaseUntilMs = Math.min(reservation.leaseUntilMs, nowMs + reservationMs);
      this.#open.set(id, { ...reservation, second, leaseUntilMs });
    }
    // Ids are dropped in order of time, so an id too far in the future would keep all ids after it.
    // There may be many ids, so this runs only after the clock was set back.
    if (nowMs < this.#lastMs) {
      const maxMs = nowMs + settledMs;
      for (const [id, untilMs] of this.#settled) if (untilMs > maxMs) this.#settled.set(id, maxMs);
    }
    this.#lastMs = nowMs;
  }
}

/** The refusal by a limit; null if `requested` more fit beside `used`. `retryMs` is called with the limit's maximum. */
function refusalOf(
  limit: keyof TenantLimits,
  limits: TenantLimits,
  used: number,
  requested: number,
  retryMs: (maximum: number) => number,
): Refusal | null {
  const maximum = limits[limit];
  if (maximum === null || used + requested <= maximum) return null;
  return { limit, maximum, used, requested, retryAfterMs: requested > maximum ? null : retryMs(maximum) };
}

/** When a second leaves the window. */
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
