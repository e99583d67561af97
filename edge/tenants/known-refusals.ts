/**
 * Caches a ledger's lasting refusals so that they are repeated without a call: no requests left in the minute, or no tokens
 * left in the month. Pure; as exact as the ledger, whose decision it repeats.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { steadyClock } from "../platform/clock.ts";
import { setNewest } from "../platform/newest.ts";
import type { Decision, Refusal } from "./quota.ts";

interface KnownRefusal {
  refusal: Refusal;
  /** When the request would fit. Infinity: only after the limit has changed. */
  retryAtMs: number;
  /** The refusal is cached until then. */
  untilMs: number;
  resetAtMs: number;
}

/** Limits whose refusal holds for every request of the tenant until it expires. */
const lasting: (keyof TenantLimits)[] = ["requestsPerMinute", "tokensPerMonth"];
const maxLedgers = 4096;
/** How long a refusal is cached, in milliseconds: the ledger may have another clock. */
const maxCacheMs = 60_000;

export class KnownRefusals {
  readonly #known = new Map<string, KnownRefusal>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = steadyClock(now);
  }

  /** Stores the refusal of a ledger's decision, if it is a lasting one. */
  note(ledger: string, { refusal, requests }: Decision): void {
    if (!refusal || !lasting.includes(refusal.limit)) return;
    const nowMs = this.#now();
    const retryAtMs = refusal.retryAfterMs === null ? Number.POSITIVE_INFINITY : nowMs + refusal.retryAfterMs;
    const untilMs = Math.min(retryAtMs, nowMs + maxCacheMs);
    const known = { refusal, retryAtMs, untilMs, resetAtMs: nowMs + (requests?.resetMs ?? 0) };
    setNewest(this.#known, ledger, known, maxLedgers);
  }

  /** The cached refusal, or null when the ledger must be called. A refusal by a limit that has changed is dropped. */
  decisionFor(ledger: string, limits: TenantLimits): Decision | null {
    const known = this.#known.get(ledger);
    const nowMs = this.#now();
    if (!known) return null;
    const { refusal, retryAtMs, untilMs, resetAtMs } = known;
    if (nowMs >= untilMs || limits[refusal.limit] !== refusal.maximum) {
      this.#known.delete(ledger);
      return null;
    }
    const isMinute = refusal.limit === "requestsPerMinute";
    return {
      refusal: { ...refusal, retryAfterMs: retryAtMs === Number.POSITIVE_INFINITY ? null : retryAtMs - nowMs },
      requests: isMinute ? { limit: refusal.maximum, remaining: 0, resetMs: resetAtMs - nowMs } : null,
      tokens: null,
    };
  }
}
