/** Decides how long a burst of one key's requests is delayed. It would delay other keys, even if refused: an isolate has one thread. Pure. */
import { fnv1a } from "../../shared/math/fnv1a.ts";
import { setNewest } from "../platform/newest.ts";

export const paceLimits = {
  /** Small requests of a key that start without a delay. */
  burst: 16,
  /** Milliseconds between the starts of requests after the burst: about the time for which a small request occupies the thread. */
  intervalMs: 2,
  /** Milliseconds added to `intervalMs` per MiB of body, which is received, parsed and encoded. */
  bodyMsPerMebibyte: 60,
  /** Longest delay of a small request, in milliseconds. A large body's is longer in proportion to its interval: 31 s for 1 MiB. */
  maxDelayMs: 1000,
  /** How long a refusal is remembered at most, in milliseconds, whatever its Retry-After. */
  refusedMs: 60_000,
  /** Most keys in memory; the least recently used one is dropped. */
  maxKeys: 1024,
};

const mebibyte = 2 ** 20;

interface KeyPace {
  /** When the time that was reserved for this key's requests ends. */
  freeMs: number;
  /** When the Retry-After of its last refusal ends. Until then the key has no burst: each request waits for the interval. */
  refusedUntilMs: number;
}

const unknown: KeyPace = { freeMs: Number.NEGATIVE_INFINITY, refusedUntilMs: Number.NEGATIVE_INFINITY };

export class Pace {
  readonly #limits: typeof paceLimits;
  readonly #keys = new Map<number, KeyPace>();

  constructor(limits = paceLimits) {
    this.#limits = limits;
  }

  /** Reserves time for a request of `key` whose declared body has `bodyBytes`. Returns its delay in whole milliseconds, usually 0. */
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

  /** Records that a request of `key` was refused with a Retry-After of `forMs`. */
  refused(key: number, nowMs: number, forMs: number): void {
    const known = this.#keys.get(key);
    if (known) known.refusedUntilMs = nowMs + Math.min(forMs, this.#limits.refusedMs);
  }
}

/** FNV-1a of an API key, so that no key is kept in memory. Two keys with the same hash share one pace. */
export function paceKeyOf(key: string): number {
  return fnv1a(key);
}
