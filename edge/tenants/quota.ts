/**
 * Decides whether a tenant's next request may run, by what its ledger has counted. Pure.
 * A second's count is kept for 60 more whole seconds, so that no 60 seconds exceed a limit. An admitted request reserves all the tokens
 * that it may use; settling frees the unused ones.
 * The system's clock is used, because tokens per month follow the calendar. It may be set back.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { setNewest } from "../platform/newest.ts";

const secondMs = 1000;
const windowMs = 61 * secondMs;
/** Lease of a reservation, in milliseconds. An isolate that does not renew it in time counts as lost. */
export const reservationMs = 120_000;
/** Retry-After, in milliseconds, of a refusal because of concurrent requests, whose end nobody knows. */
const concurrencyRetryMs = 1000;
/** Time for which the id of a settled request is stored: longer than the longest pause between two tries to settle. */
export const settledMs = 15 * 60_000;
/** Several months, so that a clock that is wrong for a while does not reset this month's use. */
const maxMonths = 4;

export interface Refusal {
  limit: keyof TenantLimits;
  maximum: number;
  used: number;
  requested: number;
  /** Milliseconds until this request fits if no other request comes; null: it never fits. */
  retryAfterMs: number | null;
}

export interface Gauge {
  limit: number;
  remaining: number;
  /** Milliseconds until the whole limit is available if no other request comes. */
  resetMs: number;
}

export interface Decision {
  refusal: Refusal | null;
  /** The limit of requests per minute after this request; null: the tenant has no such limit. */
  requests: Gauge | null;
  tokens: Gauge | null;
  /** True if the request is already counted, and this decision is about its tokens. */
  isOfTokens?: true;
}

interface Second {
  requests: number;
  tokens: number;
}

interface Reservation {
  /** The second (since 1970) in which the request's tokens were reserved. */
  second: number;
  tokens: number;
  leaseUntilMs: number;
}

export interface QuotaState {
  seconds: [number, Second][];
  open: [string, Reservation][];
  /** Tokens by month (such as `2026-11`). The month of the latest use comes last. */
  months: [string, number][];
  settled: [string, number][];
}

/** `value` undefined: the entry was deleted. */
export interface QuotaChange {
  kind: keyof QuotaState;
  key: string | number;
  value: unknown;
}

const emptyState: QuotaState = { seconds: [], open: [], months: [], settled: [] };

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
  /** Counts by whole seconds since 1970, in order of time. */
  readonly #seconds: TrackedMap<number, Second>;
  readonly #open: TrackedMap<string, Reservation>;
  /** From ids of settled requests to the time at which the id is dropped, in order of time. */
  readonly #settled: TrackedMap<string, number>;
  readonly #months: TrackedMap<string, number>;
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

  /** Passes all changes to `write`. If `write` throws, the next call passes them again. */
  writeChanges(write: (changes: QuotaChange[]) => void): void {
    const maps: Record<keyof QuotaState, TrackedMap<string | number, unknown>> = {
      ...{ seconds: this.#seconds, open: this.#open, months: this.#months, settled: this.#settled },
    };
    const kinds = Object.keys(maps) as (keyof QuotaState)[];
    const changesOf = (kind: keyof QuotaState) =>
      Array.from(maps[kind].changed, (key) => ({ kind, key, value: maps[kind].get(key) }));
    write(kinds.flatMap(changesOf));
    for (const kind of kinds) maps[kind].changed.clear();
  }

  isOpen(id: string): boolean {
    return this.#open.has(id);
  }

  isSettled(id: string): boolean {
    return this.#settled.has(id);
  }

  /** A refused request is not counted. If the month has no tokens left, every request is refused. */
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

  /** Extends the lease of a reservation. Returns false if the request is settled or unknown. */
  renew(id: string, nowMs: number): boolean {
    const reservation = this.#open.get(id);
    if (!reservation) return false;
    this.#open.set(id, { ...reservation, leaseUntilMs: nowMs + reservationMs });
    return true;
  }

  #monthTokens(nowMs: number): number {
    return this.#months.get(monthOf(nowMs)) ?? 0;
  }

  /**
   * Without a reservation, `tokens` count in the present second. `monthTokens` of them count in the month. Returns false, without an
   * effect, after an earlier settlement. `isFinal` false: a later call may settle the request again with its use.
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
    // Ids are dropped in order of time, so an id far in the future would keep all later ids.
    if (nowMs < this.#lastMs) {
      const maxMs = nowMs + settledMs;
      for (const [id, untilMs] of this.#settled) if (untilMs > maxMs) this.#settled.set(id, maxMs);
    }
    this.#lastMs = nowMs;
  }
}

/** null if `used` and `requested` together fit. `retryMs` gets the limit's maximum and returns `retryAfterMs`. */
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

function endMs(second: number): number {
  return second * secondMs + windowMs;
}

function monthOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 7);
}

function nextMonthMs(ms: number): number {
  const date = new Date(ms);
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1);
}
