/** Limits events by key: by the platform's binding (`[[ratelimits]]`), or else by a count in this isolate. */
import { steadyClock } from "./clock.ts";
import { setNewest } from "./newest.ts";

/** The platform's binding. `success` is false for events over the limit. */
export interface RateLimit {
  limit(event: { key: string }): Promise<{ success: boolean }>;
}

const maxKeys = 4096;

export class LocalRateLimit implements RateLimit {
  readonly #limit: number;
  readonly #periodMs: number;
  readonly #now: () => number;
  readonly #counts = new Map<string, number>();
  #begunMs: number;

  constructor(limit: number, periodMs: number, now: () => number) {
    this.#limit = limit;
    this.#periodMs = periodMs;
    this.#now = steadyClock(now);
    this.#begunMs = this.#now();
  }

  async limit({ key }: { key: string }): Promise<{ success: boolean }> {
    if (this.#now() - this.#begunMs >= this.#periodMs) {
      this.#counts.clear();
      this.#begunMs = this.#now();
    }
    const count = (this.#counts.get(key) ?? 0) + 1;
    setNewest(this.#counts, key, count, maxKeys);
    return { success: count <= this.#limit };
  }
}
