/** What bounds the calls that are made twice: the budgets of retries and hedges, and when a first frame counts as late. Pure. */

/** Token bucket that limits extra work (retries and hedges), which costs other callers. Ordinary work refills it. */
export class Budget {
  readonly #capacity: number;
  readonly #earned: number;
  #left: number;

  /** Starts full; each unit of ordinary work earns `earned` units. */
  constructor({ capacity, earned }: { capacity: number; earned: number }) {
    this.#capacity = capacity;
    this.#earned = earned;
    this.#left = capacity;
  }

  /** Adds what `units` of ordinary work earn. */
  earn(units: number): void {
    this.#left = Math.min(this.#capacity, this.#left + units * this.#earned);
  }

  /** Takes up to `wanted` whole units and returns how many. */
  take(wanted: number): number {
    const granted = Math.min(wanted, Math.floor(this.#left));
    this.#left -= granted;
    return granted;
  }
}

/** Times kept: enough for a 95th percentile, few enough to follow the load within seconds. */
const kept = 64;
/** With fewer times `presetMs` is used. */
const minTimes = 20;
/** A prefill of a long prompt may take as long. */
const presetMs = 1000;
/** Lower bound, so that network jitter does not hedge. */
const minLateMs = 100;
/** Factor over the 95th percentile: late means beyond the slow tail, not in it. */
const margin = 1.5;

/** Recent times to the first frame, and the wait from which a first frame counts as late. */
export class FirstFrameTimes {
  readonly #times = new Float64Array(kept);
  #recorded = 0;

  record(ms: number): void {
    this.#times[this.#recorded++ % kept] = ms;
  }

  /** A first frame that takes longer is late. */
  get lateMs(): number {
    if (this.#recorded < minTimes) return presetMs;
    const sorted = this.#times.slice(0, this.#recorded).sort();
    return Math.max(minLateMs, margin * sorted[Math.floor(0.95 * sorted.length)]);
  }
}
