/** Timeout for repeated waits, on one timer: a stream waits for each of its tokens. */

/** A wait is late after four fifths of the limit, or up to a fifth more. */
const ticks = 5;

export class RepeatedTimeout {
  readonly #tickMs: number;
  #timer: ReturnType<typeof setInterval> | null = null;
  #passed = 0;
  #late: (() => void) | null = null;

  /** `limitMs` is the longest that any wait takes. Whoever waits no more has to `stop` it. */
  constructor(limitMs: number) {
    this.#tickMs = limitMs / ticks;
  }

  /** Whether `work` settles in time. Rejects when it does. One wait at a time. */
  settles(work: Promise<unknown>): Promise<boolean> {
    this.#timer ??= setInterval(() => this.#tick(), this.#tickMs);
    this.#passed = 0;
    return new Promise<boolean>((resolve, reject) => {
      this.#late = () => resolve(false);
      work.then(() => resolve(true), reject);
    });
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #tick(): void {
    if (++this.#passed >= ticks) this.#late?.();
  }
}
