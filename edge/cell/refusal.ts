/** How a cell says that it does not answer, and why. */
import { z } from "zod";
import { errorKinds, ServiceError, statusOf } from "../../shared/errors.ts";
import { NotTaken } from "../dispatch/dispatcher.ts";

const refusalSchema = z.object({
  kind: z.enum(errorKinds),
  message: z.string(),
  param: z.string().nullable(),
  retryAfterSeconds: z.number().nullable(),
  /** False if the cell neither began nor settled anything. */
  isTaken: z.boolean(),
});

export function refusalResponse(error: ServiceError): Response {
  const { kind, message, param, retryAfterSeconds } = error;
  const isTaken = !(error instanceof NotTaken);
  const refusal = { kind, message, param, retryAfterSeconds, isTaken } satisfies z.infer<typeof refusalSchema>;
  return Response.json(refusal, { status: statusOf(kind) });
}

/** The ServiceError of a refusal; another Error if the response is not a cell's. */
export async function readRefusal(response: Response): Promise<Error> {
  const read = refusalSchema.safeParse(await response.json().catch(() => null));
  if (!read.success) return new Error(`the cell answered ${response.status}`);
  const { kind, message, param, retryAfterSeconds, isTaken } = read.data;
  if (!isTaken) return new NotTaken(kind, message);
  return new ServiceError(kind, message, { param, retryAfterSeconds: retryAfterSeconds ?? undefined });
}
