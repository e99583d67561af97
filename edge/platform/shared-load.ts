/**
 * One load for all requests of an isolate that need it. Holds values, never promises: workerd may fail a request that awaits
 * a promise of another one. So the request that begins a load owns it, and the others look for its result with timers of
 * their own.
 */

import { settlesWithin } from "../../shared/settles-within.ts";
import { steadyClock } from "./clock.ts";
import { pause } from "./pause.ts";

/** Interval at which a request looks for the result of another request's load, in milliseconds. */
const pollMs = 20;

export interface SharedLoadParts {
  /** A load that takes longer counts as failed, and the next request begins its own. */
  limitMs: number;
  /** A clock in milliseconds. */
  now(): number;
  /** Keeps the Worker alive until `work` settles (waitUntil): a load goes on where its client leaves. */
  background(work: Promise<void>): void;
}

interface Attempt<T> {
  begunMs: number;
  /** null while it runs. */
  result: PromiseSettledResult<T> | null;
}

export class SharedLoad<T> {
  readonly #parts: SharedLoadParts;
  #last: Attempt<T> | null = null;

  constructor(parts: SharedLoadParts) {
    this.#parts = { ...parts, now: steadyClock(parts.now) };
  }

  get isRunning(): boolean {
    return this.#last !== null && this.#runs(this.#last);
  }

  /** The result of the load that runs, else that of a new one. Rejects as the load does, or when it takes too long. */
  async run(load: () => Promise<T>): Promise<T> {
    const last = this.#last;
    if (last && this.#runs(last)) {
      while (this.#runs(last)) await pause(pollMs);
      return this.#valueOf(last);
    }
    const attempt: Attempt<T> = { begunMs: this.#parts.now(), result: null };
    this.#last = attempt;
    const work = Promise.allSettled([load()]).then(([result]) => {
      attempt.result = result;
    });
    this.#parts.background(work);
    await settlesWithin(work, this.#parts.limitMs);
    return this.#valueOf(attempt);
  }

  #runs({ begunMs, result }: Attempt<T>): boolean {
    return !result && this.#parts.now() - begunMs < this.#parts.limitMs;
  }

  #valueOf({ result }: Attempt<T>): T {
    if (!result) throw new Error(`a load took longer than ${this.#parts.limitMs} ms`);
    if (result.status === "rejected") throw result.reason;
    return result.value;
  }
}
