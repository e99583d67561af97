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
 * A sequence's retries since its last progress, in rounds that try every backend once. Immutable, because the sequences of a call share it.
 * The second round follows at once, without backends that would fail in the same way. Further rounds follow after pauses while failures are
 * temporary, and only for a sequence that a backend had accepted.
 */
export interface RetryRound {
  tried: ReadonlySet<string>;
  failures: readonly BackendFailure[];
  last: BackendFailure | null;
  isSecondRound: boolean;
  pausesMs: readonly number[];
}

export const firstRound: RetryRound = {
  tried: new Set(),
  failures: [],
  last: null,
  isSecondRound: false,
  pausesMs: [],
};

/** Marks `answering` as tried. Also marks `called`, unless `called` is any process of an address and `answering` was untried. */
export function withTried(round: RetryRound, called: Backend, answering: Backend): RetryRound {
  const isCalledTried = called.name !== null || round.tried.has(answering.id);
  return { ...round, tried: new Set([...round.tried, answering.id, ...(isCalledTried ? [called.id] : [])]) };
}

/** The round after a backend accepted sequences and failed. `isBegun`: a sequence has tokens, so all other backends are tried again. */
export function afterLoss(round: RetryRound, last: BackendFailure, isBegun: boolean): RetryRound {
  const tried = isBegun ? new Set([last.backend.id]) : round.tried;
  const isSecondRound = round.isSecondRound && !isBegun;
  return { tried, failures: [last], last, isSecondRound, pausesMs: roundPausesMs };
}

/** Returns the next backend, or the pause before the next round, or neither. `choose` returns a backend outside `tried`. */
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

function certainFailures(failures: readonly BackendFailure[]): ReadonlySet<string> {
  const certain = failures.filter(({ failure }, i) => {
    const { retrySame } = failure.consequence;
    return retrySame === "never" || (retrySame === "after another" && i === failures.length - 1);
  });
  return new Set(certain.map(({ backend }) => backend.id));
}

/** A token bucket that bounds repeated calls, because they delay other callers. Each accepted call refills a part. */
export class Budget {
  readonly #limits: typeof retryBudget;
  #left: number;

  constructor(limits: typeof retryBudget = retryBudget) {
    this.#limits = limits;
    this.#left = limits.capacity;
  }

  earn(): void {
    this.#left = Math.min(this.#limits.capacity, this.#left + this.#limits.earned);
  }

  take(): boolean {
    if (this.#left < 1) return false;
    this.#left--;
    return true;
  }
}
