/**
 * Whether one backend is fit to be asked, from what real calls say. Pure: the time comes with each event.
 *
 * Errors in a row eject it. When its ejection is over it is probed, not trusted: only a probe that finds it ready brings
 * it back. Until a completion has come through after that, the next ejection lasts twice as long.
 */
import type { RoutingLimits } from "./routing-limits.ts";

export class BackendHealth {
  readonly #limits: RoutingLimits;
  #errors = 0;
  /** Ejections since the last completion. */
  #ejections = 0;
  /** null while it is fit. */
  #ejectedUntilMs: number | null = null;
  #isProbed = false;
  /** Until when it is taken to serve another manifest or to have other numerics, by the hash that it refused. */
  readonly #refuses = new Map<string, number>();

  constructor(limits: RoutingLimits) {
    this.#limits = limits;
  }

  /** When its ejection ends or ended; null while it is fit. */
  get ejectedUntilMs(): number | null {
    return this.#ejectedUntilMs;
  }

  /** A sequence was completed. */
  succeeded(): void {
    this.#errors = 0;
    if (this.#ejectedUntilMs === null) this.#ejections = 0;
  }

  /** A call went wrong; `isCertain` ejects at once. Returns whether this ejected it. */
  failed(isCertain: boolean, nowMs: number): boolean {
    this.#errors++;
    // What was under way when it was ejected fails, too, and says nothing new.
    if (this.#ejectedUntilMs !== null) return false;
    if (!isCertain && this.#errors < this.#limits.consecutiveErrors) return false;
    this.#eject(nowMs);
    return true;
  }

  /** Whether to probe it now; true once until the result is told. */
  takeProbe(nowMs: number): boolean {
    if (this.#ejectedUntilMs === null || nowMs < this.#ejectedUntilMs || this.#isProbed) return false;
    this.#isProbed = true;
    return true;
  }

  probed(isReady: boolean, nowMs: number): void {
    this.#isProbed = false;
    if (isReady) {
      this.#ejectedUntilMs = null;
      this.#errors = 0;
    } else this.#eject(nowMs);
  }

  /** It serves another manifest, or has other numerics, than those of this hash. */
  mismatched(hash: string, nowMs: number): void {
    this.#refuses.set(hash, nowMs + this.#limits.mismatchMs);
  }

  serves(hash: string, nowMs: number): boolean {
    const untilMs = this.#refuses.get(hash);
    if (untilMs === undefined) return true;
    if (nowMs < untilMs) return false;
    this.#refuses.delete(hash);
    return true;
  }

  #eject(nowMs: number): void {
    const { ejectionMs, longestEjectionMs } = this.#limits;
    this.#ejectedUntilMs = nowMs + Math.min(ejectionMs * 2 ** this.#ejections, longestEjectionMs);
    this.#ejections++;
  }
}
