/**
 * When a request may start whose key brings many at once. An isolate has one thread: what arrives in one breath is in
 * front of whatever others send next, even where all of it is refused in the end. Pure; of one isolate, bounded.
 */
import { setNewest } from "./newest.ts";

export interface PaceLimits {
  /** Requests of a key that start without waiting. */
  atOnce: number;
  /** Each further one starts so much later, about as long as a request occupies the thread. */
  intervalMs: number;
  /** Nobody waits longer. */
  longestMs: number;
  /** No refusal is remembered for longer, whatever it says. */
  refusedMs: number;
  /** The oldest are forgotten. */
  rememberedKeys: number;
}

export const paceLimits: PaceLimits = {
  atOnce: 16,
  intervalMs: 2,
  longestMs: 1000,
  refusedMs: 60_000,
  rememberedKeys: 1024,
};

interface KeyPace {
  /** When the last of its requests would have started, had each waited `intervalMs` for the one before. */
  lastStartMs: number;
  /** Until then it has been told that it will be refused. */
  refusedUntilMs: number;
}

const unknown: KeyPace = { lastStartMs: Number.NEGATIVE_INFINITY, refusedUntilMs: Number.NEGATIVE_INFINITY };

export class Pace {
  readonly #limits: PaceLimits;
  readonly #keys = new Map<number, KeyPace>();

  constructor(limits: PaceLimits = paceLimits) {
    this.#limits = limits;
  }

  /** How long the next request of `key` waits before it starts, in whole milliseconds; for most 0. */
  waitMs(key: number, nowMs: number): number {
    const { atOnce, intervalMs, longestMs, rememberedKeys } = this.#limits;
    const { lastStartMs, refusedUntilMs } = this.#keys.get(key) ?? unknown;
    const aheadMs = nowMs < refusedUntilMs ? 0 : (atOnce - 1) * intervalMs;
    const inTurnMs = Math.max(nowMs, lastStartMs + intervalMs);
    const startMs = Math.min(inTurnMs, nowMs + aheadMs + longestMs);
    setNewest(this.#keys, key, { lastStartMs: startMs, refusedUntilMs }, rememberedKeys);
    return Math.max(0, Math.ceil(startMs - nowMs - aheadMs));
  }

  /** A request of `key` was told to come again after `forMs`: those that come before start one by one from the first on. */
  refused(key: number, nowMs: number, forMs: number): void {
    const known = this.#keys.get(key);
    if (known) known.refusedUntilMs = nowMs + Math.min(forMs, this.#limits.refusedMs);
  }
}

/** FNV-1a of an API key, so that no key is kept in memory. Two keys with the same hash share one pace. */
export function paceKeyOf(key: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
