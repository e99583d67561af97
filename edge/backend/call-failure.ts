/** How a call to a backend can fail, and the one table of what follows from it. */
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";

/** Seconds that a caller is told to wait where the backend did not say. */
export const retryAfterSeconds = 2;

interface Consequence {
  /** What it says of the backend's health: nothing, something, or enough to eject it. */
  health: "fit" | "doubtful" | "unfit";
  /** Another backend may do better. */
  elsewhere: boolean;
  /** So may the same one: a moment later, or once another has been asked since. */
  again: "soon" | "after another" | "never";
  /** And whoever was under way already had better wait for it. */
  passes: boolean;
}

const failureTable = {
  /** No connection, or no answer to it. */
  unreachable: { health: "doubtful", elsewhere: true, again: "soon", passes: true },
  /** The frames ended too early, or were none. */
  broken: { health: "doubtful", elsewhere: true, again: "soon", passes: true },
  /** It holds the connection and says nothing. */
  silent: { health: "unfit", elsewhere: true, again: "soon", passes: true },
  /** It answered that it failed, or sent frames that are not allowed. */
  failing: { health: "doubtful", elsewhere: true, again: "never", passes: false },
  /** It says itself that it starts or ends: in a rolling restart one is back as the next one ends. */
  unavailable: { health: "unfit", elsewhere: true, again: "after another", passes: true },
  /** It serves another manifest: it, or we, are being replaced. */
  mismatched: { health: "fit", elsewhere: true, again: "never", passes: false },
  overloaded: { health: "fit", elsewhere: true, again: "never", passes: false },
  /** The request is at fault, and would be everywhere. */
  refused: { health: "fit", elsewhere: false, again: "never", passes: false },
} as const satisfies Record<string, Consequence>;

export type FailureKind = keyof typeof failureTable;

export class CallFailure extends Error {
  readonly kind: FailureKind;
  /** What the caller is told where nobody does better. */
  readonly error: ServiceError;

  constructor(kind: FailureKind, error: ServiceError) {
    super(error.message, { cause: error.cause });
    this.name = "CallFailure";
    this.kind = kind;
    this.error = error;
  }

  get consequence(): Consequence {
    return failureTable[this.kind];
  }
}

/** The backend is not there, or not any more. */
export function away(kind: FailureKind, message: string, cause: unknown): CallFailure {
  return new CallFailure(kind, new ServiceError("backend_unavailable", message, { retryAfterSeconds, cause }));
}

/** It ended its frames too early, or sent what is none. */
export function brokenOff(cause: unknown): CallFailure {
  return away("broken", "The inference backend broke off before this completion ended.", cause);
}

/** It sent frames for a sequence that the contract does not allow; asked again it would do the same. */
export function violated(cause: unknown): CallFailure {
  return away("failing", "The inference backend answered this completion with frames that are not allowed.", cause);
}

/** What an error frame says of the backend that sent it; null where it is about the sequence alone. */
export function failureKindOf(kind: ErrorKind): FailureKind | null {
  if (kind === "overloaded") return "overloaded";
  if (kind === "backend_unavailable") return "unavailable";
  return kind === "internal" ? "failing" : null;
}

/** What ends a sequence that all of `failures` have failed: overload, if a backend had only that against it. */
export function errorOf(failures: readonly CallFailure[]): ServiceError {
  const overloads = failures.filter(({ kind }) => kind === "overloaded").map(({ error }) => error);
  const soonest = (error: ServiceError) => error.retryAfterSeconds ?? Number.POSITIVE_INFINITY;
  if (overloads.length > 0) return overloads.reduce((a, b) => (soonest(b) < soonest(a) ? b : a));
  return failures[failures.length - 1].error;
}
