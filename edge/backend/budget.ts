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
