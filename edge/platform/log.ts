import type { ServiceError } from "../../shared/errors.ts";

export function logFailure(requestId: string, error: ServiceError): void {
  const cause = error.cause instanceof Error ? (error.cause.stack ?? error.cause.message) : error.cause;
  console.error(JSON.stringify({ requestId, kind: error.kind, message: error.message, cause }));
}
