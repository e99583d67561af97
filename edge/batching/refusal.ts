/** How an object of ours says that it does not answer, and why. */
import { z } from "zod";
import { errorKinds, ServiceError, statusOf } from "../../shared/errors.ts";
import { interrupted } from "../completions/order.ts";

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

/** The ServiceError of a response that is none of a request served. */
export async function refusalOf(response: Response): Promise<ServiceError> {
  const read = refusalSchema.safeParse(await response.json().catch(() => null));
  if (!read.success) return interrupted(new Error(`the object answered ${response.status}`));
  const { kind, message, param, retryAfterSeconds } = read.data;
  return new ServiceError(kind, message, { param, retryAfterSeconds: retryAfterSeconds ?? undefined });
}
