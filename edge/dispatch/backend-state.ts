/** What the results of calls tell about one backend: its health and its load. Pure: each event carries its time. */
import type { BackendLoad } from "../../shared/contracts/backend-headers.ts";
import { routingLimits } from "./routing-limits.ts";

/**
 * Consecutive errors eject a backend. When the ejection ends it is probed, and only a successful probe makes it fit again. Until a
 * completion succeeds after that, each further ejection lasts twice as long.
 */
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

/** Estimates the sequences under way at one process: those that this router sent, and those of others by the last report. */
export class LoadEstimate {
  /** Sequences under way there that this router sent. */
  own = 0;
  /** Those of `own` in calls without an answer yet. */
  unanswered = 0;
  #slots: number = routingLimits.presumedSlots;
  /** Sequences of others when the last report came. */
  #others = 0;
  #reportedMs = 0;

  /** Records the load that an answer reported; null if it reported none. */
  recordReport(report: BackendLoad | null, nowMs: number): void {
    if (!report) return;
    const { sequences, slots } = report;
    this.#slots = slots;
    this.#others = Math.max(0, sequences - (this.own - this.unanswered));
    this.#reportedMs = nowMs;
  }

  /** Sequences of others. Reports decay, so that a backend that was full is tried again. */
  othersAt(nowMs: number): number {
    return this.#others * 2 ** -((nowMs - this.#reportedMs) / routingLimits.reportHalfLifeMs);
  }

  /** `senders`: routers that send there, this one included. Each is assumed to send as much as this one. */
  at(nowMs: number, senders: number): BackendLoad {
    const sequences = this.own + this.othersAt(nowMs) + (senders - 1) * this.unanswered;
    return { sequences, slots: this.#slots };
  }
}

export function addLoads(a: BackendLoad, b: BackendLoad): BackendLoad {
  return { sequences: a.sequences + b.sequences, slots: a.slots + b.slots };
}
