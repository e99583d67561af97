/** When and where a sequence is sent again: retry rounds and their budget. Pure. */
import type { Backend } from "./backend-group.ts";
import type { CallFailure } from "./call-failure.ts";
import type { Choice } from "./router.ts";
import { roundPausesMs } from "./routing-limits.ts";

export interface BackendFailure {
  backend: Backend;
  failure: CallFailure;
}

/**
 * Which backends were tried for a sequence since it last progressed. Each round tries every backend once. The second one follows at
 * once and leaves out backends whose answer would be the same. A sequence that a backend had accepted waits between later rounds,
 * as long as failures are temporary. Immutable, and shared by the sequences of a call.
 */
export interface RetryRound {
  /** Ids of backends. */
  tried: ReadonlySet<string>;
  /** In this round. */
  failures: readonly BackendFailure[];
  /** The failure after which the sequence is sent again; null the first time. */
  last: BackendFailure | null;
  isSecondRound: boolean;
  /** Pauses before the remaining rounds. */
  pausesMs: readonly number[];
}

export const firstRound: RetryRound = {
  tried: new Set(),
  failures: [],
  last: null,
  isSecondRound: false,
  pausesMs: [],
};

/**
 * After a call to `called`, which `answering` answered: a process of an address that leads to several. Calls to any process of an
 * address are made until one reaches a process that was tried before.
 */
export function withTried(round: RetryRound, called: Backend, answering: Backend): RetryRound {
  const isCalledTried = called.name !== null || round.tried.has(answering.id);
  return { ...round, tried: new Set([...round.tried, answering.id, ...(isCalledTried ? [called.id] : [])]) };
}

/** After a backend did not accept a call. */
export function withFailure(round: RetryRound, last: BackendFailure): RetryRound {
  return { ...round, failures: [...round.failures, last], last };
}

/** After a backend that had accepted sequences failed. If one of these has tokens, backends that failed before may succeed. */
export function afterLoss(round: RetryRound, last: BackendFailure, isBegun: boolean): RetryRound {
  const tried = isBegun ? new Set([last.backend.id]) : round.tried;
  const isSecondRound = round.isSecondRound && !isBegun;
  return { tried, failures: [last], last, isSecondRound, pausesMs: roundPausesMs };
}

/** The backend to use next; the pause before the round that begins then; or neither: no backend is left. */
export type NextStep = { round: RetryRound; choice: Choice | null; pauseMs: number | null };

/** `choose` returns the next backend, none of `tried`; null if none is left. */
export function nextStep(round: RetryRound, choose: (tried: RetryRound["tried"]) => Choice | null): NextStep {
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

/** Ids of the backends that would fail again now. */
function certainFailures(failures: readonly BackendFailure[]): ReadonlySet<string> {
  const certain = failures.filter(({ failure }, i) => {
    const { retrySame } = failure.consequence;
    return retrySame === "never" || (retrySame === "after another" && i === failures.length - 1);
  });
  return new Set(certain.map(({ backend }) => backend.id));
}

/** Token bucket that limits repeated calls, which cost other callers. Accepted calls refill it. */
export class Budget {
  readonly #capacity: number;
  readonly #earned: number;
  #left: number;

  /** Starts full; each accepted call earns `earned` units. */
  constructor({ capacity, earned }: { capacity: number; earned: number }) {
    this.#capacity = capacity;
    this.#earned = earned;
    this.#left = capacity;
  }

  earn(): void {
    this.#left = Math.min(this.#capacity, this.#left + this.#earned);
  }

  /** Takes a unit. False if there is none. */
  take(): boolean {
    if (this.#left < 1) return false;
    this.#left--;
    return true;
  }
}
