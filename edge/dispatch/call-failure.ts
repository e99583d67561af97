/** The ways in which a call to a backend fails, and the consequences of each. */
import type { ErrorFrame } from "../../shared/contracts/inference.ts";
import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";

/** Retry-After in seconds for the client, if the backend sent none. */
export const retryAfterSeconds = 2;

interface Consequence {
  /** "doubtful" counts an error, "unfit" ejects the backend at once. */
  health: "fit" | "doubtful" | "unfit";
  retryElsewhere: boolean;
  /** Whether the next round of retries may call this backend again. "after another": only if another backend failed later. */
  retrySame: "soon" | "after another" | "never";
  /** Whether sequences that a backend had accepted are tried again after a pause. */
  isTemporary: boolean;
}

const failureTable = {
  /** No connection was made, or the connection closed before a response. */
  unreachable: { health: "doubtful", retryElsewhere: true, retrySame: "soon", isTemporary: true },
  broken: { health: "doubtful", retryElsewhere: true, retrySame: "soon", isTemporary: true },
  /** The connection is open, but nothing arrives. */
  silent: { health: "unfit", retryElsewhere: true, retrySame: "soon", isTemporary: true },
  /** The backend reported a failure, or its frames violate the contract. */
  failing: { health: "doubtful", retryElsewhere: true, retrySame: "never", isTemporary: false },
  /** The backend is starting or stopping. In a rolling restart, it has returned by the time the next backend stops. */
  unavailable: { health: "unfit", retryElsewhere: true, retrySame: "after another", isTemporary: true },
  /** The backend serves another manifest, because a roll-out is in progress. */
  mismatched: { health: "fit", retryElsewhere: true, retrySame: "never", isTemporary: false },
  /** The backend's numerics fingerprint differs from the sequence's, so it would compute other bits. */
  diverging: { health: "fit", retryElsewhere: true, retrySame: "never", isTemporary: false },
  /** The call named a process that is gone, and another process answered. */
  misdirected: { health: "fit", retryElsewhere: true, retrySame: "never", isTemporary: true },
  /** The backend cannot read its stored file of an own adapter or memory. The next call uploads the file again. */
  damaged: { health: "fit", retryElsewhere: true, retrySame: "soon", isTemporary: false },
  /** The backend lacks an own adapter or memory that the edge cannot upload. Another backend may have it. */
  lacking: { health: "fit", retryElsewhere: true, retrySame: "never", isTemporary: false },
  overloaded: { health: "fit", retryElsewhere: true, retrySame: "never", isTemporary: false },
  /** The call is invalid for every backend, perhaps because of one tenant's sequences. */
  refused: { health: "fit", retryElsewhere: false, retrySame: "never", isTemporary: false },
} as const satisfies Record<string, Consequence>;

export type FailureKind = keyof typeof failureTable;

export class CallFailure extends Error {
  readonly kind: FailureKind;
  readonly error: ServiceError;
  /** Name of the process that answered. null if no process answered, or the answer has no name. */
  readonly process: string | null;

  constructor(kind: FailureKind, error: ServiceError, process: string | null = null) {
    super(error.message, { cause: error.cause });
    this.name = "CallFailure";
    this.kind = kind;
    this.error = error;
    this.process = process;
  }

  get consequence(): Consequence {
    return failureTable[this.kind];
  }
}

export function unavailable(
  kind: FailureKind,
  message: string,
  cause: unknown,
  process: string | null = null,
): CallFailure {
  return new CallFailure(kind, new ServiceError("backend_unavailable", message, { retryAfterSeconds, cause }), process);
}

export function brokenStream(cause: unknown): CallFailure {
  return unavailable("broken", "The inference backend broke off before this completion ended.", cause);
}

export function contractViolation(cause: unknown): CallFailure {
  const message = "The inference backend answered this completion with frames that are not allowed.";
  return unavailable("failing", message, cause);
}

export function divergence(cause: unknown, process: string | null = null): CallFailure {
  const message =
    "The inference backend that began this completion is gone, and no other computes the same bits. Send the request again.";
  return new CallFailure("diverging", new ServiceError("numerics_mismatch", message, { cause }), process);
}

/** Error kinds of frames that count as failures of the backend. Other kinds concern the sequence alone. */
const kindsOfFrames: Partial<Record<ErrorKind, FailureKind>> = {
  overloaded: "overloaded",
  backend_unavailable: "unavailable",
  internal: "failing",
  adapter_not_found: "damaged",
  memory_not_found: "damaged",
};

type ReportedError = Pick<ErrorFrame, "kind" | "message" | "retryAfterSeconds">;

export function failureOf(reported: ReportedError): CallFailure | null {
  return reported.kind in kindsOfFrames ? failureOfOutcome(reported) : null;
}

export function failureOfOutcome({ kind, message, retryAfterSeconds: seconds }: ReportedError): CallFailure {
  const error = new ServiceError(kind, message, { retryAfterSeconds: seconds ?? undefined });
  return new CallFailure(kindsOfFrames[kind] ?? "refused", error);
}

/** Any error that is no CallFailure comes from reading frames, so it means a broken stream. */
export function asFailure(thrown: unknown): CallFailure {
  return thrown instanceof CallFailure ? thrown : brokenStream(thrown);
}

/** The client's error: of an `overloaded` failure if there is one, else of a `diverging` failure, else of the last failure. */
export function errorOf(failures: readonly CallFailure[], jurisdiction: Jurisdiction | null): ServiceError {
  if (failures.length === 0) {
    const where = jurisdiction && ` in the jurisdiction ${jurisdiction}, where this tenant's data must stay`;
    return new ServiceError("backend_unavailable", `No backend is configured${where ?? ""}.`);
  }
  const error = worstOf(failures);
  if (jurisdiction === null || error.kind === "numerics_mismatch") return error;
  const message = `${error.message} No backend outside the jurisdiction ${jurisdiction} may serve this tenant.`;
  const { kind, param, retryAfterSeconds, cause } = error;
  return new ServiceError(kind, message, { param, retryAfterSeconds: retryAfterSeconds ?? undefined, cause });
}

function worstOf(failures: readonly CallFailure[]): ServiceError {
  const overloads = failures.filter(({ kind }) => kind === "overloaded").map(({ error }) => error);
  const soonest = (error: ServiceError) => error.retryAfterSeconds ?? Number.POSITIVE_INFINITY;
  if (overloads.length > 0) return overloads.reduce((a, b) => (soonest(b) < soonest(a) ? b : a));
  return (failures.find(({ kind }) => kind === "diverging") ?? failures[failures.length - 1]).error;
}
