/** From a request's body to what a schema reads in it. */
import type { Context } from "hono";
import { z } from "zod";
import { ServiceError } from "../../shared/errors.ts";

/** The request's JSON body, checked. Throws a ServiceError that names the field at fault. */
export async function readBody<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  let value: unknown;
  try {
    value = JSON.parse(await context.req.text());
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new ServiceError("invalid_request", "The body is not JSON.", { cause });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ServiceError("invalid_request", z.prettifyError(parsed.error), { param: issue.path.join(".") || null });
}
