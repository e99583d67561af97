/**
 * Whether a tenant's next request may run. Pure: the clock is a parameter; ledger.ts is the object around it.
 *
 * Requests and tokens a minute are counted in seconds, and a second counts until 60 whole seconds have passed after it:
 * so no 60 seconds, wherever they begin, ever hold more than the limit, and what is kept is 61 numbers whatever the rate.
 * A request is admitted before it is read, which counts it; once its tokens are known it reserves all that it may come
 * to, and gives back what it did not use when it is settled.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";

const secondMs = 1000;
const windowMs = 61 * secondMs;
/** A reservation that nobody settles or renews for so long belongs to an isolate that is gone. */
export const leaseMs = 120_000;
/** Nobody knows when a running request ends. */
const concurrencyRetryMs = 1000;

/** Why a request may not run. */
export interface Refusal {
  limit: keyof TenantLimits;
  maximum: number;
  /** In use, this request not counted. */
  used: number;
  asked: number;
  /** When it would fit if nothing else came; null: never. */
  retryAfterMs: number | null;
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
  month: { name: string; tokens: number };
}

export class Quota {
  /** In order of time; those that have begun a minute ago or later. */
  readonly #seconds: Map<number, Second>;
  readonly #open: Map<string, Reservation>;
  /** The month of the last settlement, and what was used in it. */
  #month: { name: string; tokens: number };

  constructor(state: QuotaState = { seconds: [], open: [], month: { name: "", tokens: 0 } }) {
    this.#seconds = new Map(state.seconds);
    this.#open = new Map(state.open);
    this.#month = state.month;
  }

  get state(): QuotaState {
    return { seconds: [...this.#seconds], open: [...this.#open], month: this.#month };
  }

  /**
   * Counts the request `id` and gives it a place, or says why not: then it counts nowhere. A month whose tokens are used
   * up, reservations aside, refuses every request, and goes on to do so until it is over.
   */
  admit(id: string, limits: TenantLimits, nowMs: number): Decision {
    this.#forget(nowMs);
    const { requestsPerMinute, tokensPerMonth } = limits;
    const month = this.#monthTokens(nowMs);
    const refusal =
      (tokensPerMonth !== null && month >= tokensPerMonth
        ? refusalOf("tokensPerMonth", limits, month, 1, () => nextMonthMs(nowMs) - nowMs)
        : null) ??
      refusalOf("requestsPerMinute", limits, this.#counted().requests, 1, () =>
        this.#roomMs("requests", 1, requestsPerMinute!, nowMs),
      ) ??
      refusalOf("concurrentRequests", limits, this.#open.size, 1, () => concurrencyRetryMs);
    if (!refusal) {
      const second = this.#count({ requests: 1, tokens: 0 }, nowMs);
      this.#open.set(id, { second, tokens: 0, leaseUntilMs: nowMs + leaseMs });
    }
    return this.#decision(refusal, limits, nowMs);
  }

  /** Reserves `tokens` for the request `id`, which was admitted, or says why not. */
  reserve(id: string, tokens: number, limits: TenantLimits, nowMs: number): Decision {
    this.#forget(nowMs);
    const reserved = [...this.#open.values()].reduce((sum, reservation) => sum + reservation.tokens, 0);
    const month = this.#monthTokens(nowMs) + reserved;
    const refusal =
      refusalOf("tokensPerMonth", limits, month, tokens, () => nextMonthMs(nowMs) - nowMs) ??
      refusalOf("tokensPerMinute", limits, this.#counted().tokens, tokens, () =>
        this.#roomMs("tokens", tokens, limits.tokensPerMinute!, nowMs),
      );
    if (!refusal) {
      const second = this.#count({ requests: 0, tokens }, nowMs);
      this.#open.set(id, { second, tokens, leaseUntilMs: nowMs + leaseMs });
    }
    return this.#decision(refusal, limits, nowMs);
  }

  /** Counts in the second that is now, which is returned. */
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

  /** Says that the request still runs. */
  renew(id: string, nowMs: number): void {
    const reservation = this.#open.get(id);
    if (reservation) reservation.leaseUntilMs = nowMs + leaseMs;
  }

  /** Counts tokens that were used without a reservation. */
  use(tokens: number, nowMs: number): void {
    this.#month = { name: monthOf(nowMs), tokens: this.#monthTokens(nowMs) + tokens };
  }

  /** What was used in this month. */
  #monthTokens(nowMs: number): number {
    return this.#month.name === monthOf(nowMs) ? this.#month.tokens : 0;
  }

  /** Ends a request that used `tokens`. One without a reservation, or whose lease is over, is counted just the same. */
  settle(id: string, tokens: number, nowMs: number): void {
    this.use(tokens, nowMs);
    const reservation = this.#open.get(id);
    this.#open.delete(id);
    const second = reservation && this.#seconds.get(reservation.second);
    if (second) second.tokens += tokens - reservation.tokens;
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

  #gauge(unit: keyof Second, limit: number | null, nowMs: number): Gauge | null {
    if (limit === null) return null;
    const last = [...this.#seconds].findLast(([, counted]) => counted[unit] > 0);
    return {
      limit,
      remaining: Math.max(0, limit - this.#counted()[unit]),
      resetMs: last ? endMs(last[0]) - nowMs : 0,
    };
  }

  #forget(nowMs: number): void {
    for (const second of this.#seconds.keys()) if (endMs(second) <= nowMs) this.#seconds.delete(second);
    for (const [id, { leaseUntilMs }] of this.#open) if (leaseUntilMs <= nowMs) this.#open.delete(id);
  }
}

/** null where `asked` more fit beside what is `used`. */
function refusalOf(
  limit: keyof TenantLimits,
  limits: TenantLimits,
  used: number,
  asked: number,
  retryMs: () => number,
): Refusal | null {
  const maximum = limits[limit];
  if (maximum === null || used + asked <= maximum) return null;
  return { limit, maximum, used, asked, retryAfterMs: asked > maximum ? null : retryMs() };
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
