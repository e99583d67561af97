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
  /** The oldest are forgotten. */
  rememberedKeys: number;
}

export const paceLimits: PaceLimits = { atOnce: 16, intervalMs: 2, longestMs: 1000, rememberedKeys: 1024 };

export class Pace {
  readonly #limits: PaceLimits;
  /** Key → when the last of its requests would have started, had each waited `intervalMs` for the one before. */
  readonly #lastStartMs = new Map<number, number>();

  constructor(limits: PaceLimits = paceLimits) {
    this.#limits = limits;
  }

  /** How long the next request of `key` waits before it starts, in whole milliseconds; for most 0. */
  waitMs(key: number, nowMs: number): number {
    const { atOnce, intervalMs, longestMs, rememberedKeys } = this.#limits;
    const aheadMs = (atOnce - 1) * intervalMs;
    const inTurnMs = Math.max(nowMs, (this.#lastStartMs.get(key) ?? Number.NEGATIVE_INFINITY) + intervalMs);
    const startMs = Math.min(inTurnMs, nowMs + aheadMs + longestMs);
    setNewest(this.#lastStartMs, key, startMs, rememberedKeys);
    return Math.max(0, Math.ceil(startMs - nowMs - aheadMs));
  }
}

/** A key's number, FNV-1a: so that no key is kept. Two of one number only wait for each other. */
export function paceKeyOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
