/** Recent times to the first frame, and the wait from which a first frame counts as late. Pure. */

/** Times kept: enough for a 95th percentile, few enough to follow the load within seconds. */
const kept = 64;
/** With fewer times `presetMs` is used. */
const fewest = 20;
/** A prefill of a long prompt may take as long. */
const presetMs = 1000;
/** Lower bound, so that network jitter does not hedge. */
const shortestMs = 100;
/** Factor over the 95th percentile: late means beyond the slow tail, not in it. */
const margin = 1.5;

export class FirstFrameTimes {
  readonly #times = new Float64Array(kept);
  #recorded = 0;

  record(ms: number): void {
    this.#times[this.#recorded++ % kept] = ms;
  }

  /** A first frame that takes longer is late. */
  get lateMs(): number {
    if (this.#recorded < fewest) return presetMs;
    const sorted = this.#times.slice(0, this.#recorded).sort();
    return Math.max(shortestMs, margin * sorted[Math.floor(0.95 * sorted.length)]);
  }
}
