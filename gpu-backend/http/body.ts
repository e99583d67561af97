/** From a request's body to what a schema reads in it. */
import type { Context } from "hono";
import { z } from "zod";
import { parseCallerJson } from "../../shared/contracts/caller-json.ts";
import { ServiceError } from "../../shared/errors.ts";

/** The request's JSON body, checked. Throws a ServiceError that names the field at fault. */
export async function readBody<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  const parsed = schema.safeParse(parseCallerJson(await context.req.text()));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ServiceError("invalid_request", z.prettifyError(parsed.error), { param: issue.path.join(".") || null });
}
