/** A cached value. A request polls for another request's load, because workerd may fail a request that awaits another request's promise. */
import { settlesWithin } from "../../shared/settles-within.ts";
import { pause, steadyClock } from "./clock.ts";

const pollMs = 20;

export interface RefreshedParts {
  now(): number;
  /** Keeps the Worker alive until `work` settles (waitUntil), so that a load continues after its request. */
  background(work: Promise<void>): void;
}

interface RefreshTimes {
  /** Age in milliseconds from which a request starts a load in the background. Default: 0. */
  refreshMs?: number;
  /** Age in milliseconds from which a request waits for its own load. Default: 0. */
  expireMs?: number;
  /** Maximum age of a value that is used while another request loads. Default: 0. Above 0, any old value replaces a failed load. */
  usableMs?: number;
  /** Timeout of a load in milliseconds. Afterwards, the next request begins its own load. */
  limitMs: number;
  /** If true, a request without a usable value waits for another request's load. If false, it begins its own load. */
  isShared: boolean;
}

interface Attempt<T> {
  begunMs: number;
  result: PromiseSettledResult<T> | null;
}

export class Refreshed<T> {
  readonly #parts: RefreshedParts;
  readonly #times: Required<RefreshTimes>;
  #loaded: { value: T; atMs: number } | null = null;
  #last: Attempt<T> | null = null;

  constructor(parts: RefreshedParts, times: RefreshTimes) {
    this.#parts = { ...parts, now: steadyClock(parts.now) };
    this.#times = { refreshMs: 0, expireMs: 0, usableMs: 0, ...times };
  }

  /** Any age; null if no value was loaded. */
  get last(): T | null {
    return this.#loaded?.value ?? null;
  }

  get isLoading(): boolean {
    return this.#last !== null && this.#runs(this.#last);
  }

  /** Loads the value again if it is too old. Rejects if the load fails and an old value must not be used. */
  async get(load: () => Promise<T>): Promise<T> {
    const { refreshMs, expireMs, usableMs, isShared } = this.#times;
    const loaded = this.#loaded;
    const ageMs = loaded ? this.#parts.now() - loaded.atMs : Number.POSITIVE_INFINITY;
    if (loaded && ageMs < refreshMs) return loaded.value;
    const other = this.isLoading ? this.#last : null;
    if (loaded && (ageMs < expireMs || (other && ageMs < usableMs))) {
      if (!other) this.#begin(load);
      return loaded.value;
    }
    try {
      if (other && isShared) {
        while (this.#runs(other)) await pause(pollMs);
        return this.#valueOf(other);
      }
      const { attempt, work } = this.#begin(load);
      await settlesWithin(work, this.#times.limitMs);
      return this.#valueOf(attempt);
    } catch (error) {
      if (loaded && usableMs > 0) return loaded.value;
      throw error;
    }
  }

  #begin(load: () => Promise<T>): { attempt: Attempt<T>; work: Promise<void> } {
    const attempt: Attempt<T> = { begunMs: this.#parts.now(), result: null };
    this.#last = attempt;
    const work = Promise.allSettled([load()]).then(([result]) => {
      attempt.result = result;
      // A late result must not replace the result of a newer attempt.
      if (result.status === "fulfilled" && this.#last === attempt)
        this.#loaded = { value: result.value, atMs: this.#parts.now() };
    });
    this.#parts.background(work);
    return { attempt, work };
  }

  #runs({ begunMs, result }: Attempt<T>): boolean {
    return !result && this.#parts.now() - begunMs < this.#times.limitMs;
  }

  #valueOf({ result }: Attempt<T>): T {
    if (!result) throw new Error(`a load took longer than ${this.#times.limitMs} ms`);
    if (result.status === "rejected") throw result.reason;
    return result.value;
  }
}
