/**
 * Who has tried keys in vain lately, by address: guessing 256 bits is hopeless, but each guess costs a look-up. Pure; of
 * one isolate, bounded.
 */
import { setNewest } from "./newest.ts";

/** A minute's tries with keys that open nothing; a program with an old key in it stops at the first. */
const mostTries = 30;
const windowMs = 60_000;
const rememberedAddresses = 4096;

interface Tries {
  count: number;
  untilMs: number;
}

export class FailedKeys {
  readonly #tries = new Map<string, Tries>();

  /** A key from there opened nothing. */
  failed(address: string, nowMs: number): void {
    const name = networkOf(address);
    const known = this.#tries.get(name);
    if (known && nowMs < known.untilMs) {
      known.count++;
      return;
    }
    setNewest(this.#tries, name, { count: 1, untilMs: nowMs + windowMs }, rememberedAddresses);
  }

  /** How long nothing more from there is looked up; 0 where it may try. */
  waitMs(address: string, nowMs: number): number {
    const known = this.#tries.get(networkOf(address));
    return known && known.count >= mostTries ? Math.max(0, known.untilMs - nowMs) : 0;
  }
}

/** One customer has a whole /64 of version 6. */
function networkOf(address: string): string {
  return address.includes(":") ? address.split(":").slice(0, 4).join(":") : address;
}
