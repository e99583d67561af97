/** Health and load of one backend, estimated from the results of calls. Pure. */
import type { BackendLoad } from "../../shared/contracts/backend-headers.ts";
import { routingLimits } from "./routing-limits.ts";

/** Consecutive errors eject a backend until a probe succeeds. Each ejection lasts twice as long, until a sequence completes. */
export class BackendHealth {
  #errors = 0;
  #ejections = 0;
  /** End of the ejection, when a probe is due, in milliseconds; null if the backend is not ejected. */
  ejectedUntilMs: number | null = null;
  #isProbed = false;
  /** By refused hash (manifest or numerics fingerprint): the time until which the backend counts as not serving it. */
  readonly #refuses = new Map<string, number>();

  recordSuccess(): void {
    this.#errors = 0;
    if (this.ejectedUntilMs === null) this.#ejections = 0;
  }

  /** `isCertain`: one failure ejects the backend; otherwise several in a row do. Returns whether the backend was ejected. */
  recordFailure(isCertain: boolean, nowMs: number): boolean {
    this.#errors++;
    // Calls that were open at the ejection fail, too. Their failures say nothing new about the backend.
    if (this.ejectedUntilMs !== null) return false;
    if (!isCertain && this.#errors < routingLimits.consecutiveErrors) return false;
    this.#eject(nowMs);
    return true;
  }

  /** Whether to probe the backend now. After true, returns false until `recordProbe`. */
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

/** Open sequences at one process: this router's are counted, other routers' are estimated from the process's last report. */
export class LoadEstimate {
  own = 0;
  /** Sequences among `own` whose call has no answer yet. */
  unanswered = 0;
  #slots: number = routingLimits.presumedSlots;
  #others = 0;
  #reportedMs = 0;

  recordReport(report: BackendLoad | null, nowMs: number): void {
    if (!report) return;
    const { sequences, slots } = report;
    this.#slots = slots;
    this.#others = Math.max(0, sequences - (this.own - this.unanswered));
    this.#reportedMs = nowMs;
  }

  /** Decays with the report's age, so that a backend that was full is tried again. */
  othersAt(nowMs: number): number {
    return this.#others * 2 ** -((nowMs - this.#reportedMs) / routingLimits.reportHalfLifeMs);
  }

  /** The load if each of `senders` routers (this router included) has as many unanswered sequences as this router. */
  at(nowMs: number, senders: number): BackendLoad {
    const sequences = this.own + this.othersAt(nowMs) + (senders - 1) * this.unanswered;
    return { sequences, slots: this.#slots };
  }
}

export function addLoads(a: BackendLoad, b: BackendLoad): BackendLoad {
  return { sequences: a.sequences + b.sequences, slots: a.slots + b.slots };
}
