/** Whether, when and to which backends a sequence is sent again. Pure. */
import type { Backend } from "./backend-group.ts";
import type { CallFailure } from "./call-failure.ts";
import type { Choice } from "./router.ts";
import { retryBudget, roundPausesMs } from "./routing-limits.ts";

export interface BackendFailure {
  backend: Backend;
  failure: CallFailure;
}

/**
 * The retries of a sequence since it last progressed, in rounds that try every backend once. The second round follows at once, without
 * backends that would answer the same. Later rounds follow after pauses: only for a sequence that a backend had accepted, and as long
 * as failures are temporary. Immutable, and shared by the sequences of a call.
 */
export interface RetryRound {
  /** Ids of the backends that were tried in this round. */
  tried: ReadonlySet<string>;
  /** Failures in this round. */
  failures: readonly BackendFailure[];
  /** The latest failure, also of an earlier round; null before the first. */
  last: BackendFailure | null;
  isSecondRound: boolean;
  /** Pauses before the rounds that may follow. */
  pausesMs: readonly number[];
}

export const firstRound: RetryRound = {
  tried: new Set(),
  failures: [],
  last: null,
  isSecondRound: false,
  pausesMs: [],
};

/** The round after `answering` answered a call to `called`. An address counts as tried once it leads to a process that was tried. */
export function withTried(round: RetryRound, called: Backend, answering: Backend): RetryRound {
  const isCalledTried = called.name !== null || round.tried.has(answering.id);
  return { ...round, tried: new Set([...round.tried, answering.id, ...(isCalledTried ? [called.id] : [])]) };
}

/** The round after a backend accepted sequences and failed. `isBegun`: one has tokens, so all backends are tried anew. */
export function afterLoss(round: RetryRound, last: BackendFailure, isBegun: boolean): RetryRound {
  const tried = isBegun ? new Set([last.backend.id]) : round.tried;
  const isSecondRound = round.isSecondRound && !isBegun;
  return { tried, failures: [last], last, isSecondRound, pausesMs: roundPausesMs };
}

/** The backend to use next, or the pause before the next round; both null: none is left. `choose` returns a backend not in `tried`. */
export function nextStep(
  round: RetryRound,
  choose: (tried: RetryRound["tried"]) => Choice | null,
): { round: RetryRound; choice: Choice | null; pauseMs: number | null } {
  let current = round;
  let choice = choose(current.tried);
  if (!choice && !current.isSecondRound) {
    current = { ...current, tried: certainFailures(current.failures), isSecondRound: true };
    choice = choose(current.tried);
  }
  const [pauseMs, ...pausesMs] = current.pausesMs;
  const isTemporary = current.failures.some(({ failure }) => failure.consequence.isTemporary);
  if (choice || pauseMs === undefined || !isTemporary) return { round: current, choice, pauseMs: null };
  const later = { ...current, tried: new Set<string>(), failures: [], isSecondRound: true, pausesMs };
  return { round: later, choice: null, pauseMs };
}

/** Ids of the backends that would fail again if they were called now. */
function certainFailures(failures: readonly BackendFailure[]): ReadonlySet<string> {
  const certain = failures.filter(({ failure }, i) => {
    const { retrySame } = failure.consequence;
    return retrySame === "never" || (retrySame === "after another" && i === failures.length - 1);
  });
  return new Set(certain.map(({ backend }) => backend.id));
}

/** Token bucket that limits repeated calls, because they delay other callers. It starts full; accepted calls refill it. */
export class Budget {
  readonly #limits: typeof retryBudget;
  #left: number;

  constructor(limits: typeof retryBudget = retryBudget) {
    this.#limits = limits;
    this.#left = limits.capacity;
  }

  /** Adds to the budget, because a call was accepted. */
  earn(): void {
    this.#left = Math.min(this.#limits.capacity, this.#left + this.#limits.earned);
  }

  /** Takes one repeated call from the budget; false if none is left. */
  take(): boolean {
    if (this.#left < 1) return false;
    this.#left--;
    return true;
  }
}
