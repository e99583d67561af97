/** A bounded queue for requests that make own adapters or memories. A tenant has at most one running request. */
import { ServiceError } from "../../../shared/errors.ts";

/** Each running request holds up to .2 GB of examples' states and logits. */
const maxRunning = 2;
/** Maximum waiting requests. Each takes up to 1 minute, the edge waits 10. A tenant may have at most as many as there are free places. */
export const maxWaiting = 16;
/** Estimated seconds of one request, for Retry-After. */
const requestSeconds = 2;

export class MakingQueue {
  readonly #what: "adapters" | "memories";
  /** Tenants are in the order of their turns. */
  readonly #waiting = new Map<string, (() => void)[]>();
  readonly #running = new Set<string>();

  constructor(what: "adapters" | "memories") {
    this.#what = what;
  }

  get waiting(): number {
    return this.#waiting.values().reduce((sum, { length }) => sum + length, 0);
  }

  /** Waits for a turn. Returns a function that ends the request. Throws `overloaded` if the queue is full, `cancelled` on abort. */
  async enter(tenant: string, signal: AbortSignal): Promise<() => void> {
    if (signal.aborted) throw cancelled(signal);
    const own = this.#waiting.get(tenant) ?? [];
    const free = maxWaiting - this.waiting;
    if (own.length >= free) {
      const message = `${free} of ${maxWaiting} places for making ${this.#what} are free, and a tenant may take as many as it leaves: this one has ${own.length}.`;
      throw new ServiceError("overloaded", message, { retryAfterSeconds: (maxWaiting - free + 1) * requestSeconds });
    }
    const turn = Promise.withResolvers<void>();
    const leave = () => {
      own.splice(own.indexOf(turn.resolve), 1);
      if (own.length === 0) this.#waiting.delete(tenant);
      turn.reject(cancelled(signal));
    };
    signal.addEventListener("abort", leave);
    own.push(turn.resolve);
    this.#waiting.set(tenant, own);
    this.#startNext();
    await turn.promise;
    signal.removeEventListener("abort", leave);
    return () => {
      this.#running.delete(tenant);
      this.#putLast(tenant);
      this.#startNext();
    };
  }

  #startNext(): void {
    for (const [tenant, own] of this.#waiting) {
      if (this.#running.size >= maxRunning) return;
      if (this.#running.has(tenant)) continue;
      this.#running.add(tenant);
      own.shift()!();
      this.#putLast(tenant);
    }
  }

  #putLast(tenant: string): void {
    const own = this.#waiting.get(tenant) ?? [];
    this.#waiting.delete(tenant);
    if (own.length > 0) this.#waiting.set(tenant, own);
  }
}

export function cancelled(signal: AbortSignal): ServiceError {
  return new ServiceError("cancelled", "The request was cancelled.", { cause: signal.reason });
}
