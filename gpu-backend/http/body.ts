/** From a request's body to what a schema reads in it. */
import type { Context } from "hono";
import { z } from "zod";
import { parseCallerJson } from "../../shared/contracts/caller-json.ts";
import { contractVersion } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";

/** The request's JSON body, checked. Throws a ServiceError that names the field at fault. */
export async function readBody<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  const value = parseCallerJson(await context.req.text());
  const { version } = (value ?? {}) as { version?: unknown };
  if (typeof version === "number" && version !== contractVersion) {
    const message = `The call is of version ${version} of the contract, this backend of version ${contractVersion}.`;
    throw new ServiceError("version_mismatch", message);
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ServiceError("invalid_request", z.prettifyError(parsed.error), { param: issue.path.join(".") || null });
}
