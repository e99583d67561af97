/** How long sequences wait for their first frame, and from which wait on one is late. Pure. */

/** Enough for a 95th percentile, few enough to follow the load within seconds. */
const kept = 64;
const fewest = 20;
/** Before anything is known; a prefill of a long prompt may take as much. */
const presetMs = 1000;
/** Never sooner: a hiccup of the network is no reason. */
const shortestMs = 100;
/** Late is beyond the slow tail, not in it. */
const margin = 1.5;

export class FirstFrameTimes {
  readonly #times: number[] = [];
  #next = 0;

  note(ms: number): void {
    this.#times[this.#next] = ms;
    this.#next = (this.#next + 1) % kept;
  }

  /** Whoever waits longer is late. */
  get lateMs(): number {
    if (this.#times.length < fewest) return presetMs;
    const sorted = this.#times.toSorted((a, b) => a - b);
    return Math.max(shortestMs, margin * sorted[Math.floor(0.95 * sorted.length)]);
  }
}
