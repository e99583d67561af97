/**
 * Shares one thread among fits that run at once: each asks for its steps, and the next step is that of the fit that has computed
 * least. A short fit therefore waits for one step of a long one, not for all of it.
 */
import { setImmediate } from "node:timers/promises";

interface Step {
  id: number;
  positions: number;
  run(): Promise<void>;
  reject(error: Error): void;
}

export class FitTurns {
  /** Positions that each open fit has computed. */
  readonly #computed = new Map<number, number>();
  #waiting: Step[] = [];
  #isRunning = false;

  open(id: number): void {
    this.#computed.set(id, 0);
  }

  /** Ends a fit: its next step is rejected. */
  cancel(id: number): void {
    this.#computed.delete(id);
  }

  /** Runs one step of an open fit, over so many positions, at its turn. */
  run<T>(id: number, positions: number, work: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#waiting.push({ id, positions, reject, run: () => work().then(resolve, reject) });
    if (!this.#isRunning) void this.#runAll();
    return promise;
  }

  async #runAll(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0) {
      // Messages are read here: new fits, and cancellations.
      await setImmediate();
      const next = this.#waiting.reduce((least, step) => (this.#of(step) < this.#of(least) ? step : least));
      this.#waiting = this.#waiting.filter((step) => step !== next);
      if (this.#computed.has(next.id)) {
        this.#computed.set(next.id, this.#of(next) + next.positions);
        await next.run();
      } else next.reject(new Error("the fit was cancelled"));
    }
    this.#isRunning = false;
  }

  /** 0 for a cancelled fit, which ends at once. */
  #of({ id }: Step): number {
    return this.#computed.get(id) ?? 0;
  }
}
