/**
 * The message with which the Worker asks a cell to answer a request. While a deploy spreads, the two may be of different versions;
 * then the cell refuses the message and the Worker asks the next one. A message of the cell's own version is not checked, because
 * the same code wrote it.
 */
import { ServiceError } from "../../shared/errors.ts";
import type { AnswerRequest } from "../answer/completion-writer.ts";
import type { StreamCursor } from "../answer/sent-events.ts";
import { NotTaken } from "../dispatch/dispatcher.ts";

/** Raise it with every change of the message or of what the cell answers. */
export const cellRequestVersion = 1;

/** The message, as JSON. */
export interface CellRequest extends AnswerRequest {
  version: number;
  /** An earlier cell was lost, or has ended the request for a client that did not read: then it is settled. */
  isResumed?: boolean | undefined;
}

/** The message if it is of this cell's version. Throws NotTaken for another version, so that the next cell is asked. */
export function readCellRequest(message: unknown): CellRequest {
  const { version } = (message ?? {}) as { version?: unknown };
  if (version === cellRequestVersion) return message as CellRequest;
  throw new NotTaken(
    "backend_unavailable",
    `The edge is being updated; try again. (Request of version ${JSON.stringify(version)}, cell of ${cellRequestVersion}.)`,
  );
}

/**
 * What to send to the next cell when one is lost, for the `losses`-th time. `cursor` is how far the client has the stream;
 * null if it has nothing.
 */
export function resumedRequest(
  request: CellRequest,
  losses: number,
  cursor: StreamCursor | null,
  elapsedMs: number,
): CellRequest {
  const choices = request.plan.choices.map((choice) => {
    const { deadlineMs, ...sequence } = choice.sequence;
    // A stream that has begun has met its deadline.
    const timeLeft =
      deadlineMs === undefined || cursor !== null ? {} : { deadlineMs: Math.max(1, deadlineMs - elapsedMs) };
    // The backend may still run the sequence under its first id.
    return { ...choice, sequence: { ...sequence, ...timeLeft, id: `${sequence.id}_r${losses}` } };
  });
  return {
    ...request,
    isResumed: true,
    plan: { ...request.plan, choices },
    ...(cursor !== null && { resumeFrom: cursor }),
  };
}

/** The error of a request whose cells were lost because their machine or code was replaced. */
export function interrupted(cause: unknown): ServiceError {
  const message = "The request was interrupted at the edge; try again.";
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}
