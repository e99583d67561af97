/**
 * Tenants that have had all requests of their minute, as their ledgers said: until the first of them counts no more, every
 * other is refused, so an isolate can say so by itself, before any work. Pure; as exact as the ledger, whose word it is.
 */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import type { Decision } from "./quota.ts";

interface FullMinute {
  maximum: number;
  untilMs: number;
  resetAtMs: number;
}

export class FullMinutes {
  readonly #full = new Map<string, FullMinute>();

  /** Learns from a ledger's decision. */
  note(tenant: string, { refusal, requests }: Decision, nowMs: number): void {
    if (refusal?.limit !== "requestsPerMinute" || refusal.retryAfterMs === null || !requests) return;
    const { maximum, retryAfterMs } = refusal;
    this.#full.set(tenant, { maximum, untilMs: nowMs + retryAfterMs, resetAtMs: nowMs + requests.resetMs });
  }

  /** What the ledger would decide, or null where it has to be asked. Limits may have changed since. */
  decisionFor(tenant: string, limits: TenantLimits, nowMs: number): Decision | null {
    const full = this.#full.get(tenant);
    if (!full) return null;
    const { maximum, untilMs, resetAtMs } = full;
    if (nowMs >= untilMs || limits.requestsPerMinute !== maximum) {
      this.#full.delete(tenant);
      return null;
    }
    return {
      refusal: { limit: "requestsPerMinute", maximum, used: maximum, asked: 1, retryAfterMs: untilMs - nowMs },
      requests: { limit: maximum, remaining: 0, resetMs: resetAtMs - nowMs },
      tokens: null,
    };
  }
}
