/**
 * Decides how long a burst of a key's requests is delayed, because even if it were refused it would occupy the isolate's only thread.
 * Pure.
 */
import { fnv1a } from "../../shared/math/fnv1a.ts";
import { setNewest } from "../platform/newest.ts";

export const paceLimits = {
  burst: 16,
  /** Between starts after the burst: about the time for which a small request occupies the thread. */
  intervalMs: 2,
  /** Added to `intervalMs` for each MiB of body, which is received, parsed and encoded. */
  bodyMsPerMebibyte: 60,
  /** Longest delay of a small request. A large body's is longer in proportion to its interval: 31 s for 1 MiB. */
  maxDelayMs: 1000,
  /** Longest time for which a refusal is remembered, whatever its Retry-After. */
  refusedMs: 60_000,
  /** The least recently used key is dropped. */
  maxKeys: 1024,
};

const mebibyte = 2 ** 20;

interface KeyPace {
  /** End of the time reserved for this key's requests. */
  freeMs: number;
  /** End of its last refusal's Retry-After. Until then the key has no burst. */
  refusedUntilMs: number;
}

const unknown: KeyPace = { freeMs: Number.NEGATIVE_INFINITY, refusedUntilMs: Number.NEGATIVE_INFINITY };

export class Pace {
  readonly #limits: typeof paceLimits;
  readonly #keys = new Map<number, KeyPace>();

  constructor(limits = paceLimits) {
    this.#limits = limits;
  }

  /** Reserves time for a request whose declared body has `bodyBytes`. Returns its delay in whole milliseconds. */
  waitMs(key: number, nowMs: number, bodyBytes: number): number {
    const { burst, intervalMs, bodyMsPerMebibyte, maxDelayMs, maxKeys } = this.#limits;
    const { freeMs, refusedUntilMs } = this.#keys.get(key) ?? unknown;
    const workMs = intervalMs + (bodyBytes / mebibyte) * bodyMsPerMebibyte;
    const aheadMs = nowMs < refusedUntilMs ? 0 : (burst - 1) * intervalMs;
    const maxMs = maxDelayMs * (workMs / intervalMs);
    const startMs = Math.min(Math.max(nowMs, freeMs), nowMs + aheadMs + maxMs);
    setNewest(this.#keys, key, { freeMs: Math.max(freeMs, startMs + workMs), refusedUntilMs }, maxKeys);
    return Math.max(0, Math.ceil(startMs - nowMs - aheadMs));
  }

  refused(key: number, nowMs: number, forMs: number): void {
    const known = this.#keys.get(key);
    if (known) known.refusedUntilMs = nowMs + Math.min(forMs, this.#limits.refusedMs);
  }
}

/** A hash, so that no key is kept in memory. Keys with the same hash share one pace. */
export function paceKeyOf(key: string): number {
  return fnv1a(key);
}
