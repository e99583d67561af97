/** How an object of ours says that it does not answer, and why. */
import { z } from "zod";
import { errorKinds, ServiceError, statusOf } from "../../shared/errors.ts";

const refusalSchema = z.object({
  kind: z.enum(errorKinds),
  message: z.string(),
  param: z.string().nullable(),
  retryAfterSeconds: z.number().nullable(),
});

export function refusalResponse({ kind, message, param, retryAfterSeconds }: ServiceError): Response {
  const refusal = { kind, message, param, retryAfterSeconds } satisfies z.input<typeof refusalSchema>;
  return Response.json(refusal, { status: statusOf(kind) });
}

/** Why a response is no answer: the ServiceError that it tells, or another Error where it was not an object of ours that spoke. */
export async function refusalOf(response: Response): Promise<Error> {
  const read = refusalSchema.safeParse(await response.json().catch(() => null));
  if (!read.success) return new Error(`the object answered ${response.status}`);
  const { kind, message, param, retryAfterSeconds } = read.data;
  return new ServiceError(kind, message, { param, retryAfterSeconds: retryAfterSeconds ?? undefined });
}
