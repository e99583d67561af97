/** Delays a key's requests that come faster than the isolate's one thread can work. Refusals would occupy the thread, too. Pure. */
import { fnv1a } from "../../shared/math/fnv1a.ts";
import { setNewest } from "../platform/newest.ts";

export const paceLimits = {
  burst: 16,
  /** Milliseconds between the starts of requests after the burst: about the time that a small request occupies the thread. */
  intervalMs: 2,
  /** Milliseconds added to `intervalMs` for each MiB of a body, because the thread receives, parses and encodes it. */
  bodyMsPerMebibyte: 60,
  /** Longest delay of a small request. A large body's delay grows in proportion to its interval: 31 s for 1 MiB. */
  maxDelayMs: 1000,
  /** Longest time for which a refusal has an effect, whatever its Retry-After. */
  refusedMs: 60_000,
  maxKeys: 1024,
};

const mebibyte = 2 ** 20;

interface KeyPace {
  /** End of the time that is reserved for the key's requests, in milliseconds. */
  freeMs: number;
  /** End of the Retry-After of the key's last refusal, in milliseconds. Until then, the key has no burst. */
  refusedUntilMs: number;
}

const unknown: KeyPace = { freeMs: Number.NEGATIVE_INFINITY, refusedUntilMs: Number.NEGATIVE_INFINITY };

export class Pace {
  readonly #limits: typeof paceLimits;
  readonly #keys = new Map<number, KeyPace>();

  constructor(limits = paceLimits) {
    this.#limits = limits;
  }

  /** Reserves time for a request whose headers declare a body of `bodyBytes`. Returns its delay in whole milliseconds. */
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

/** Security: a hash, so that no key is kept in RAM. Keys with the same hash share one pace. */
export function paceKeyOf(key: string): number {
  return fnv1a(key);
}
