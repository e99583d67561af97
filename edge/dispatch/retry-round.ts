/**
 * Which backends were tried for a sequence since it last progressed, and what to do next. Pure.
 *
 * Each round tries every backend once. The second one follows at once and leaves out backends whose answer would be the same. A
 * sequence that a backend had accepted waits between later rounds, as long as failures are temporary, in which a backend may
 * come back.
 */
import type { Backend } from "./backend-group.ts";
import type { CallFailure } from "./call-failure.ts";
import type { Choice } from "./router.ts";
import { roundPausesMs } from "./routing-limits.ts";

/** Which backend failed some sequences, and how. */
export interface BackendFailure {
  backend: Backend;
  failure: CallFailure;
}

/** Immutable, and shared by the sequences of a call. */
export interface RetryRound {
  /** Ids of backends. */
  tried: ReadonlySet<string>;
  /** In this round. */
  failures: readonly BackendFailure[];
  /** Why the sequence is sent again; null the first time. */
  last: BackendFailure | null;
  isSecondRound: boolean;
  /** Before the rounds that are left. */
  pausesMs: readonly number[];
}

/** Nothing was tried yet. */
export const firstRound: RetryRound = {
  tried: new Set(),
  failures: [],
  last: null,
  isSecondRound: false,
  pausesMs: [],
};

/**
 * After a call to `asked`, which `answering` answered: a process of an address that leads to several. Calls to any process of an
 * address are made until one reaches a process that was tried before.
 */
export function withTried(round: RetryRound, asked: Backend, answering: Backend): RetryRound {
  const isAskedTried = asked.name !== null || round.tried.has(answering.id);
  return { ...round, tried: new Set([...round.tried, answering.id, ...(isAskedTried ? [asked.id] : [])]) };
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
  const isTemporary = current.failures.some(({ failure }) => failure.consequence.passes);
  if (choice || pauseMs === undefined || !isTemporary) return { round: current, choice, pauseMs: null };
  const later = { ...current, tried: new Set<string>(), failures: [], isSecondRound: true, pausesMs };
  return { round: later, choice: null, pauseMs };
}

/** Ids of the backends whose answer would be the same at once. */
function certainFailures(failures: readonly BackendFailure[]): ReadonlySet<string> {
  const certain = failures.filter(({ failure }, i) => {
    const { again } = failure.consequence;
    return again === "never" || (again === "after another" && i === failures.length - 1);
  });
  return new Set(certain.map(({ backend }) => backend.id));
}
