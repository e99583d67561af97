/** Every error that a caller can get, with HTTP status, and type and code in OpenAI's error body. */

export const errorTable = {
  invalid_request: { status: 400, type: "invalid_request_error", code: null },
  context_length_exceeded: { status: 400, type: "invalid_request_error", code: "context_length_exceeded" },
  unauthorized: { status: 401, type: "authentication_error", code: "invalid_api_key" },
  /** Between edge and backend: a call's signature is missing or wrong. */
  bad_signature: { status: 401, type: "authentication_error", code: "bad_signature" },
  forbidden: { status: 403, type: "permission_error", code: "insufficient_permissions" },
  not_found: { status: 404, type: "invalid_request_error", code: "not_found" },
  model_not_found: { status: 404, type: "invalid_request_error", code: "model_not_found" },
  adapter_not_found: { status: 404, type: "invalid_request_error", code: "adapter_not_found" },
  adapter_outdated: { status: 400, type: "invalid_request_error", code: "adapter_outdated" },
  adapter_quota_exceeded: { status: 403, type: "invalid_request_error", code: "adapter_quota_exceeded" },
  memory_not_found: { status: 404, type: "invalid_request_error", code: "memory_not_found" },
  /** A memory was deleted while a running answer read it. */
  memory_deleted: { status: 410, type: "invalid_request_error", code: "memory_deleted" },
  method_not_allowed: { status: 405, type: "invalid_request_error", code: "method_not_allowed" },
  /** Between edge and backend: versions of the contract differ. */
  version_mismatch: { status: 409, type: "server_error", code: "version_mismatch" },
  manifest_mismatch: { status: 409, type: "server_error", code: "manifest_mismatch" },
  /** A running answer lost its backend, and no other backend computes the same bits. */
  numerics_mismatch: { status: 409, type: "server_error", code: "numerics_mismatch" },
  /** The Idempotency-Key was used for another request. */
  idempotency_conflict: { status: 409, type: "invalid_request_error", code: "idempotency_conflict" },
  /** Two `chameleon publish` commands ran at the same time. */
  switch_conflict: { status: 409, type: "invalid_request_error", code: "switch_conflict" },
  body_too_slow: { status: 408, type: "invalid_request_error", code: "body_too_slow" },
  /** Between edge and backend: the call names another process. */
  misdirected: { status: 421, type: "server_error", code: "misdirected" },
  body_too_large: { status: 413, type: "invalid_request_error", code: "body_too_large" },
  url_too_long: { status: 414, type: "invalid_request_error", code: "url_too_long" },
  headers_too_large: { status: 431, type: "invalid_request_error", code: "headers_too_large" },
  unsupported_media_type: { status: 415, type: "invalid_request_error", code: "unsupported_media_type" },
  cancelled: { status: 499, type: "invalid_request_error", code: "cancelled" },
  rate_limited: { status: 429, type: "rate_limit_error", code: "rate_limit_exceeded" },
  quota_exceeded: { status: 429, type: "insufficient_quota", code: "insufficient_quota" },
  overloaded: { status: 429, type: "rate_limit_error", code: "overloaded" },
  internal: { status: 500, type: "server_error", code: "internal_error" },
  /** No backend can compute the sequence, so the edge does not send it again. */
  generation_failed: { status: 500, type: "server_error", code: "generation_failed" },
  backend_unavailable: { status: 503, type: "server_error", code: "backend_unavailable" },
  deadline_exceeded: { status: 504, type: "server_error", code: "deadline_exceeded" },
} as const satisfies Record<string, { status: number; type: string; code: string | null }>;

export type ErrorKind = keyof typeof errorTable;
export const errorKinds = Object.keys(errorTable) as [ErrorKind, ...ErrorKind[]];

export type ErrorEnvelope = ReturnType<typeof envelopeOf>;

/** An error for the caller. `message` names the limit and the value that exceeds it. */
export class ServiceError extends Error {
  readonly kind: ErrorKind;
  /** The bad field, such as `messages[0].content`. */
  readonly param: string | null;
  /** Seconds for a Retry-After header; null if a retry is pointless. */
  readonly retryAfterSeconds: number | null;

  constructor(
    kind: ErrorKind,
    message: string,
    options: { param?: string | null; retryAfterSeconds?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = "ServiceError";
    this.kind = kind;
    this.param = options.param ?? null;
    this.retryAfterSeconds = options.retryAfterSeconds ?? null;
  }
}

/** `message` has no full stop. `param`: the bad field. */
export function invalidRequest(message: string, param: string | null = null, cause?: unknown): ServiceError {
  return new ServiceError("invalid_request", `Invalid request: ${message}.`, { param, cause });
}

/** Returns a handler that rethrows failures as backend_unavailable. `message`: what cannot be used now. */
export function unavailable(message: string): (cause: unknown) => never {
  return (cause) => {
    throw new ServiceError("backend_unavailable", `${message}; try again.`, { retryAfterSeconds: 1, cause });
  };
}

export function statusOf(kind: ErrorKind): number {
  return errorTable[kind].status;
}

export function envelopeOf(error: ServiceError) {
  const { type, code }: { type: string; code: string | null } = errorTable[error.kind];
  return { error: { message: error.message, type, param: error.param, code } };
}

/** Converts anything thrown to an error that is safe to show. An unknown error is kept as `cause`, for logs. */
export function toServiceError(thrown: unknown): ServiceError {
  if (thrown instanceof ServiceError) return thrown;
  return new ServiceError("internal", "The server failed on this request.", { cause: thrown });
}
