/** The Worker's message to a cell, and the cell's refusal. A cell refuses a message of another version, as during a deploy. */
import * as z from "zod";
import { errorKinds, ServiceError, statusOf } from "../../shared/errors.ts";
import type { AnswerRequest } from "../answer/completion-writer.ts";
import type { StreamCursor } from "../answer/sent-events.ts";
import { NotTaken } from "../dispatch/dispatcher.ts";

/** Increase this with every change of the message or of the cell's answer. */
export const cellRequestVersion = 8;

export interface CellRequest extends AnswerRequest {
  version: number;
  /** An earlier cell was lost. That cell may already have settled the request. */
  isResumed?: boolean | undefined;
}

export function readCellRequest(message: unknown): CellRequest {
  const { version } = (message ?? {}) as { version?: unknown };
  if (version === cellRequestVersion) return message as CellRequest;
  const versions = `Request of version ${JSON.stringify(version)}, cell of ${cellRequestVersion}`;
  throw new NotTaken("backend_unavailable", `The edge is being updated; try again. (${versions}.)`);
}

/** The message to the next cell after `losses` lost cells. `cursor`: how much of the stream the client has received. */
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
    // A new id, because the backend may still run the sequence under its first id.
    return { ...choice, sequence: { ...sequence, ...timeLeft, id: `${sequence.id}_r${losses}` } };
  });
  return { ...request, isResumed: true, plan: { ...request.plan, choices }, ...(cursor && { resumeFrom: cursor }) };
}

export function interrupted(cause: unknown): ServiceError {
  const message = "The request was interrupted at the edge; try again.";
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}

const refusalSchema = z.object({
  kind: z.enum(errorKinds),
  message: z.string(),
  param: z.string().nullable(),
  retryAfterSeconds: z.number().nullable(),
  /** False if the error is a NotTaken (dispatcher.ts). */
  isTaken: z.boolean(),
});

export function refusalResponse(error: ServiceError): Response {
  const { kind, message, param, retryAfterSeconds } = error;
  const isTaken = !(error instanceof NotTaken);
  const refusal = { kind, message, param, retryAfterSeconds, isTaken } satisfies z.infer<typeof refusalSchema>;
  return Response.json(refusal, { status: statusOf(kind) });
}

/** Returns an Error that is no ServiceError if the platform answered instead of the cell. */
export async function readRefusal(response: Response): Promise<Error> {
  const read = refusalSchema.safeParse(await response.json().catch(() => null));
  if (!read.success) return new Error(`the cell answered ${response.status}`);
  const { kind, message, param, retryAfterSeconds, isTaken } = read.data;
  if (!isTaken) return new NotTaken(kind, message);
  return new ServiceError(kind, message, { param, retryAfterSeconds: retryAfterSeconds ?? undefined });
}
