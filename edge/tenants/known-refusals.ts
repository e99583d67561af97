/** Caches refusals that hold for every request until a known time: no requests left in the minute, or no tokens in the month. Pure. */
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { steadyClock } from "../platform/clock.ts";
import { setNewest } from "../platform/newest.ts";
import type { Decision, Refusal } from "./quota.ts";

interface KnownRefusal extends Pick<Decision, "requests"> {
  refusal: Refusal;
  atMs: number;
}

const lasting: (keyof TenantLimits)[] = ["requestsPerMinute", "tokensPerMonth"];
const maxTenants = 4096;
/** Maximum time in the cache, because the ledger's clock may differ from this isolate's clock. */
const maxCacheMs = 60_000;

export class KnownRefusals {
  readonly #known = new Map<string, KnownRefusal>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = steadyClock(now);
  }

  note(tenant: string, { refusal, requests }: Decision): void {
    if (!refusal || !lasting.includes(refusal.limit)) return;
    const gauge = refusal.limit === "requestsPerMinute" ? requests : null;
    setNewest(this.#known, tenant, { refusal, requests: gauge, atMs: this.#now() }, maxTenants);
  }

  /** null: the ledger must be called. A refusal by a limit that has changed is dropped. */
  decisionFor(tenant: string, limits: TenantLimits): Decision | null {
    const known = this.#known.get(tenant);
    if (!known) return null;
    const { refusal, requests, atMs } = known;
    const ageMs = this.#now() - atMs;
    const { limit, maximum, retryAfterMs } = refusal;
    if (ageMs >= Math.min(retryAfterMs ?? maxCacheMs, maxCacheMs) || limits[limit] !== maximum) {
      this.#known.delete(tenant);
      return null;
    }
    return {
      refusal: { ...refusal, retryAfterMs: retryAfterMs && retryAfterMs - ageMs },
      requests: requests && { ...requests, resetMs: requests.resetMs - ageMs },
      tokens: null,
    };
  }
}
