/** The states of an answer: open → closing → ended. Pure. */

/**
 * - complete: the whole answer was written.
 * - failed: the answer could not be computed.
 * - deadline: not every choice had started before the deadline.
 * - limit: the answer exceeds a limit of held bytes, or the client read nothing for too long.
 * - gone: the client has disconnected.
 */
export const endReasons = ["complete", "failed", "deadline", "limit", "gone"] as const;
export type EndReason = (typeof endReasons)[number];

/**
 * - open: more text may be written.
 * - closing: the reason is known and the answer is charged; the client may still read its last bytes.
 * - ended: the answer no longer holds any bytes.
 */
export type AnswerState = { phase: "open" } | { phase: "closing" | "ended"; reason: EndReason };

/**
 * Events that change an answer's state. An EndReason closes the answer, and `gone` also ends it. Two other events end it:
 * - delivered: the client has read the whole answer.
 * - broken off: unread bytes are discarded; the client gets an incomplete body.
 */
export type AnswerEvent = EndReason | "delivered" | "broken off";

export function nextState(state: AnswerState, event: AnswerEvent): AnswerState {
  if (state.phase === "ended") return state;
  if (event === "gone") return { phase: "ended", reason: event };
  if (state.phase === "open") {
    return event === "delivered" || event === "broken off" ? state : { phase: "closing", reason: event };
  }
  if (event === "delivered" || event === "broken off") return { phase: "ended", reason: state.reason };
  if (event !== "limit") return state;
  // An error replaces the unread part of a complete answer. An unread error is discarded.
  return { phase: state.reason === "complete" ? "closing" : "ended", reason: event };
}

/** Calls `settled` once when the answer leaves `open`, and `finished` once when it has ended. */
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
