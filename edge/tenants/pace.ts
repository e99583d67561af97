/**
 * When a request may start whose key brings many at once. An isolate has one thread: what arrives in one breath is in
 * front of whatever others send next, even where all of it is refused in the end. Pure; of one isolate, bounded.
 */
import { setNewest } from "./newest.ts";

export interface PaceLimits {
  /** Small requests of a key that start without waiting. */
  atOnce: number;
  /** Each further one starts so much later, about as long as a small request occupies the thread. */
  intervalMs: number;
  /** What a mebibyte of body adds to that: it is received, parsed and encoded. */
  bodyMsPerMebibyte: number;
  /** A small request waits no longer; a larger one so much longer as it takes more time. */
  longestMs: number;
  /** No refusal is remembered for longer, whatever it says. */
  refusedMs: number;
  /** The oldest are forgotten. */
  rememberedKeys: number;
}

export const paceLimits: PaceLimits = {
  atOnce: 16,
  intervalMs: 2,
  bodyMsPerMebibyte: 60,
  longestMs: 1000,
  refusedMs: 60_000,
  rememberedKeys: 1024,
};

const mebibyte = 2 ** 20;

interface KeyPace {
  /** When the time of all its requests is over, had each started as the one before was done. */
  freeMs: number;
  /** Until then none of its requests starts beside another. */
  refusedUntilMs: number;
}

const unknown: KeyPace = { freeMs: Number.NEGATIVE_INFINITY, refusedUntilMs: Number.NEGATIVE_INFINITY };

export class Pace {
  readonly #limits: PaceLimits;
  readonly #keys = new Map<number, KeyPace>();

  constructor(limits: PaceLimits = paceLimits) {
    this.#limits = limits;
  }

  /**
   * How long the next request of `key` waits before it starts, in whole milliseconds; for most 0. `bodyBytes` are those
   * that it declares.
   */
  waitMs(key: number, nowMs: number, bodyBytes: number): number {
    const { atOnce, intervalMs, bodyMsPerMebibyte, longestMs, rememberedKeys } = this.#limits;
    const { freeMs, refusedUntilMs } = this.#keys.get(key) ?? unknown;
    const takesMs = intervalMs + (bodyBytes / mebibyte) * bodyMsPerMebibyte;
    const aheadMs = nowMs < refusedUntilMs ? 0 : (atOnce - 1) * intervalMs;
    const longest = longestMs * (takesMs / intervalMs);
    const startMs = Math.min(Math.max(nowMs, freeMs), nowMs + aheadMs + longest);
    setNewest(this.#keys, key, { freeMs: Math.max(freeMs, startMs + takesMs), refusedUntilMs }, rememberedKeys);
    return Math.max(0, Math.ceil(startMs - nowMs - aheadMs));
  }

  /** A request of `key` was told to come again after `forMs`: those that come before start one by one from the first on. */
  refused(key: number, nowMs: number, forMs: number): void {
    const known = this.#keys.get(key);
    if (known) known.refusedUntilMs = nowMs + Math.min(forMs, this.#limits.refusedMs);
  }
}

/** A key's number, FNV-1a: so that no key is kept. Two of one number only wait for each other. */
export function paceKeyOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
