/**
 * Estimates the sequences under way at one process: those that this router sent, and those of others by the last report.
 * Pure: each event carries its time.
 */
import type { BackendLoad } from "../../shared/contracts/backend-load.ts";
import type { RoutingLimits } from "./routing-limits.ts";

export class LoadEstimate {
  /** Sequences under way there that this router sent. */
  own = 0;
  readonly #halfLifeMs: number;
  #slots: number;
  /** Sequences of others when the last report came. */
  #others = 0;
  #reportedMs = 0;

  constructor({ reportHalfLifeMs, presumedSlots }: RoutingLimits) {
    this.#halfLifeMs = reportHalfLifeMs;
    this.#slots = presumedSlots;
  }

  recordReport({ sequences, slots }: BackendLoad, nowMs: number): void {
    this.#slots = slots;
    this.#others = Math.max(0, sequences - this.own);
    this.#reportedMs = nowMs;
  }

  /** Reports age, so that a backend that was full is tried again. */
  at(nowMs: number): BackendLoad {
    const others = this.#others * 2 ** -((nowMs - this.#reportedMs) / this.#halfLifeMs);
    return { sequences: this.own + others, slots: this.#slots };
  }
}

export function addLoads(a: BackendLoad, b: BackendLoad): BackendLoad {
  return { sequences: a.sequences + b.sequences, slots: a.slots + b.slots };
}
