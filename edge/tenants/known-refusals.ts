/**
 * Caches a ledger's lasting refusals so that they are repeated without a call: no requests left in the minute, or no tokens
 * left in the month. Pure; as exact as the ledger, whose decision it repeats.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { setNewest } from "./newest.ts";
import type { Decision, Refusal } from "./quota.ts";

interface KnownRefusal {
  refusal: Refusal;
  /** Infinity: the refusal holds until the limit changes. */
  untilMs: number;
  resetAtMs: number;
}

/** Limits whose refusal holds for every request of the tenant until it expires. */
const lasting: (keyof TenantLimits)[] = ["requestsPerMinute", "tokensPerMonth"];
const rememberedTenants = 4096;

export class KnownRefusals {
  readonly #known = new Map<string, KnownRefusal>();

  /** Stores the refusal of a ledger's decision, if it is a lasting one. */
  note(tenant: string, { refusal, requests }: Decision, nowMs: number): void {
    if (!refusal || !lasting.includes(refusal.limit)) return;
    const untilMs = refusal.retryAfterMs === null ? Number.POSITIVE_INFINITY : nowMs + refusal.retryAfterMs;
    const known = { refusal, untilMs, resetAtMs: nowMs + (requests?.resetMs ?? 0) };
    setNewest(this.#known, tenant, known, rememberedTenants);
  }

  /** The cached refusal, or null when the ledger must be called. A refusal by a limit that has changed is dropped. */
  decisionFor(tenant: string, limits: TenantLimits, nowMs: number): Decision | null {
    const known = this.#known.get(tenant);
    if (!known) return null;
    const { refusal, untilMs, resetAtMs } = known;
    if (nowMs >= untilMs || limits[refusal.limit] !== refusal.maximum) {
      this.#known.delete(tenant);
      return null;
    }
    const isMinute = refusal.limit === "requestsPerMinute";
    return {
      refusal: { ...refusal, retryAfterMs: untilMs === Number.POSITIVE_INFINITY ? null : untilMs - nowMs },
      requests: isMinute ? { limit: refusal.maximum, remaining: 0, resetMs: resetAtMs - nowMs } : null,
      tokens: null,
    };
  }
}
