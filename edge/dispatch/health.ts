/**
 * Health of one backend, derived from the results of real calls. Pure: each event carries its time.
 *
 * Consecutive errors eject it. When the ejection ends it is probed, and only a successful probe makes it fit again. Until a
 * completion succeeds after that, each further ejection lasts twice as long.
 */
import { routingLimits } from "./routing-limits.ts";

export class BackendHealth {
  #errors = 0;
  /** Ejections since the last completion. */
  #ejections = 0;
  /** When its ejection ends or ended; null while it is not ejected. */
  ejectedUntilMs: number | null = null;
  #isProbed = false;
  /** Until when it counts as not serving a manifest or numerics fingerprint, by the hash that it refused. */
  readonly #refuses = new Map<string, number>();

  /** Records a completed sequence. */
  recordSuccess(): void {
    this.#errors = 0;
    if (this.ejectedUntilMs === null) this.#ejections = 0;
  }

  /** Counts a failed call; `isCertain` ejects at once. Returns whether this ejected it. */
  recordFailure(isCertain: boolean, nowMs: number): boolean {
    this.#errors++;
    // Calls that were under way when it was ejected fail too, which is no new information.
    if (this.ejectedUntilMs !== null) return false;
    if (!isCertain && this.#errors < routingLimits.consecutiveErrors) return false;
    this.#eject(nowMs);
    return true;
  }

  /** Returns whether to probe it now; after true it returns false until `recordProbe`. */
  takeProbe(nowMs: number): boolean {
    if (this.ejectedUntilMs === null || nowMs < this.ejectedUntilMs || this.#isProbed) return false;
    this.#isProbed = true;
    return true;
  }

  recordProbe(isReady: boolean, nowMs: number): void {
    this.#isProbed = false;
    if (isReady) {
      this.ejectedUntilMs = null;
      this.#errors = 0;
    } else this.#eject(nowMs);
  }

  /** Records that it refused this manifest hash or numerics fingerprint. */
  recordMismatch(hash: string, nowMs: number): void {
    this.#refuses.set(hash, nowMs + routingLimits.mismatchMs);
  }

  serves(hash: string, nowMs: number): boolean {
    const untilMs = this.#refuses.get(hash);
    if (untilMs === undefined) return true;
    if (nowMs < untilMs) return false;
    this.#refuses.delete(hash);
    return true;
  }

  #eject(nowMs: number): void {
    const { ejectionMs, maxEjectionMs } = routingLimits;
    this.ejectedUntilMs = nowMs + Math.min(ejectionMs * 2 ** this.#ejections, maxEjectionMs);
    this.#ejections++;
  }
}
