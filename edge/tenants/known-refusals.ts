/**
 * Tenants whose every request is refused for a while, as their ledgers said: all requests of their minute, or all tokens of
 * their month, are used. Until then an isolate says so by itself, before any work. Pure; as exact as the ledger, whose word
 * it is.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { setNewest } from "./newest.ts";
import type { Decision, Refusal } from "./quota.ts";

interface KnownRefusal {
  refusal: Refusal;
  /** Infinity: until the limit changes. */
  untilMs: number;
  resetAtMs: number;
}

/** Those that hold for every request of the tenant until they are over. */
const lasting: (keyof TenantLimits)[] = ["requestsPerMinute", "tokensPerMonth"];
const rememberedTenants = 4096;

export class KnownRefusals {
  readonly #known = new Map<string, KnownRefusal>();

  /** Learns from a ledger's decision on admission. */
  note(tenant: string, { refusal, requests }: Decision, nowMs: number): void {
    if (!refusal || !lasting.includes(refusal.limit)) return;
    const untilMs = refusal.retryAfterMs === null ? Number.POSITIVE_INFINITY : nowMs + refusal.retryAfterMs;
    const known = { refusal, untilMs, resetAtMs: nowMs + (requests?.resetMs ?? 0) };
    setNewest(this.#known, tenant, known, rememberedTenants);
  }

  /** What the ledger would decide, or null where it has to be asked. Limits may have changed since. */
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
