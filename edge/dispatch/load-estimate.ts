/**
 * Estimates the sequences under way at one process: those that this router sent, and those of others by the last report.
 * Pure: each event carries its time.
 */
import type { BackendLoad } from "../../shared/contracts/backend-load.ts";
import { routingLimits } from "./routing-limits.ts";

export class LoadEstimate {
  /** Sequences under way there that this router sent. */
  own = 0;
  /** Those of `own` in calls without an answer yet. */
  unanswered = 0;
  #slots: number = routingLimits.presumedSlots;
  /** Sequences of others when the last report came. */
  #others = 0;
  #reportedMs = 0;

  /** Records what an answer said of the process's load; null if it said nothing. */
  recordReport(report: BackendLoad | null, nowMs: number): void {
    if (!report) return;
    const { sequences, slots } = report;
    this.#slots = slots;
    this.#others = Math.max(0, sequences - (this.own - this.unanswered));
    this.#reportedMs = nowMs;
  }

  /** Sequences of others. Reports age, so that a backend that was full is tried again. */
  othersAt(nowMs: number): number {
    return this.#others * 2 ** -((nowMs - this.#reportedMs) / routingLimits.reportHalfLifeMs);
  }

  /** `senders`: routers that send there, this one included. Each sends meanwhile what this one does. */
  at(nowMs: number, senders: number): BackendLoad {
    const sequences = this.own + this.othersAt(nowMs) + (senders - 1) * this.unanswered;
    return { sequences, slots: this.#slots };
  }
}

export function addLoads(a: BackendLoad, b: BackendLoad): BackendLoad {
  return { sequences: a.sequences + b.sequences, slots: a.slots + b.slots };
}
