/**
 * How an answer ends: open → closing → ended, for one named reason. Its writer and its body share this state. Pure.
 *
 * - open: it may be written to.
 * - closing: its outcome is decided and settled; its last bytes are being read.
 * - ended: nothing of it is in memory.
 */

/**
 * - complete: all of it was written.
 * - failed: it could not be computed.
 * - deadline: its deadline passed before every choice had started.
 * - limit: it exceeds a limit of memory, or nothing of it was read for too long.
 * - gone: the client has disconnected.
 */
export const endReasons = ["complete", "failed", "deadline", "limit", "gone"] as const;
export type EndReason = (typeof endReasons)[number];

export type AnswerState = { phase: "open" } | { phase: "closing" | "ended"; reason: EndReason };

/**
 * - a reason: the answer ends for it.
 * - delivered: the client has read all of it.
 * - broken off: the rest is discarded, so that the client gets an incomplete body.
 */
export type AnswerEvent = EndReason | "delivered" | "broken off";

/** The state after `event`; `state` itself if the event changes nothing. */
export function nextState(state: AnswerState, event: AnswerEvent): AnswerState {
  if (state.phase === "ended") return state;
  if (event === "gone") return { phase: "ended", reason: event };
  if (state.phase === "open") {
    return event === "delivered" || event === "broken off" ? state : { phase: "closing", reason: event };
  }
  if (event === "delivered" || event === "broken off") return { phase: "ended", reason: state.reason };
  if (event !== "limit") return state;
  // The rest of a complete answer gives way to an error. An error that is not read either is discarded.
  return { phase: state.reason === "complete" ? "closing" : "ended", reason: event };
}

/** The state of one answer. Calls `settled` when it leaves `open`, then `finished` when it has ended: each exactly once. */
export class AnswerEnd {
  #state: AnswerState = { phase: "open" };
  readonly #settled: (reason: EndReason) => void;
  readonly #finished: (reason: EndReason) => void;

  constructor({ settled, finished }: { settled(reason: EndReason): void; finished(reason: EndReason): void }) {
    this.#settled = settled;
    this.#finished = finished;
  }

  get phase(): AnswerState["phase"] {
    return this.#state.phase;
  }

  /** Returns whether the event changed the state. */
  apply(event: AnswerEvent): boolean {
    const before = this.#state;
    const after = nextState(before, event);
    if (after === before) return false;
    this.#state = after;
    if (after.phase === "open") return true;
    if (before.phase === "open") this.#settled(after.reason);
    if (after.phase === "ended") this.#finished(after.reason);
    return true;
  }
}
