/**
 * The nonces that were used, as long as they could be used again. Bounded: where it is full the oldest is forgotten, and
 * from then on nothing as old as that one is taken, so no nonce is ever taken twice. Pure.
 */
export class NonceMemory {
  readonly #capacity: number;
  /** Nonce → its time, in order of arrival, which is nearly that of time. */
  readonly #times = new Map<string, number>();
  /** Nonces of this time and before may have been forgotten. */
  #forgottenMs = Number.NEGATIVE_INFINITY;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get size(): number {
    return this.#times.size;
  }

  /** Takes a nonce of `timeMs`; those from before `expiredMs` are of no more use, as their time alone refuses them. */
  add(nonce: string, timeMs: number, expiredMs: number): "added" | "seen" | "too old" {
    if (this.#times.has(nonce)) return "seen";
    if (timeMs <= this.#forgottenMs) return "too old";
    this.#times.set(nonce, timeMs);
    for (const [oldest, oldestMs] of this.#times) {
      const isExpired = oldestMs < expiredMs;
      if (!isExpired && this.#times.size <= this.#capacity) break;
      this.#times.delete(oldest);
      if (!isExpired) this.#forgottenMs = Math.max(this.#forgottenMs, oldestMs);
    }
    return "added";
  }
}
