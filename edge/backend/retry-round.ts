/** Which backends were tried for some sequences since these last progressed. Pure. */
import type { Backend } from "./backend-group.ts";
import type { CallFailure } from "./call-failure.ts";

export interface RetryRound {
  /** By id. */
  tried: ReadonlySet<string>;
  isSecondRound: boolean;
}

/** Which backend failed some sequences, and how. */
export interface BackendFailure {
  backend: Backend;
  failure: CallFailure;
}

/** Nothing was tried yet. */
export const firstRound: RetryRound = { tried: new Set(), isSecondRound: false };
/** After a pause every backend is tried once more. */
export const laterRound: RetryRound = { tried: new Set(), isSecondRound: true };

/** Tries every backend once more, except those whose answer would be the same. */
export function secondRound(failures: readonly BackendFailure[]): RetryRound {
  const certain = failures.filter(({ failure }, i) => {
    const { again } = failure.consequence;
    return again === "never" || (again === "after another" && i === failures.length - 1);
  });
  return { tried: new Set(certain.map(({ backend }) => backend.id)), isSecondRound: true };
}

/**
 * The round after a call to `asked`, which `answering` answered: a process of an address that leads to several. Calls to any
 * process go on until one answers twice.
 */
export function withTried({ tried, isSecondRound }: RetryRound, asked: Backend, answering = asked): RetryRound {
  const isAskedTried = asked.name !== null || tried.has(answering.id);
  return { tried: new Set([...tried, answering.id, ...(isAskedTried ? [asked.id] : [])]), isSecondRound };
}
