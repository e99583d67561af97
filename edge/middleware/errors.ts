/** The last stop of everything thrown: OpenAI's envelope, never a stack. */
import type { Context } from "hono";
import { envelopeOf, statusOf, toServiceError } from "../../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

export function errorResponse(c: Context<AppEnvironment>, thrown: unknown, log: Dependencies["log"]): Response {
  const error = toServiceError(thrown);
  if (statusOf(error.kind) >= 500) log(c.get("requestId"), error);
  const headers: Record<string, string> = { "content-type": "application/json; charset=utf-8" };
  if (error.retryAfterSeconds !== null) headers["retry-after"] = String(error.retryAfterSeconds);
  return new Response(JSON.stringify(envelopeOf(error)), { status: statusOf(error.kind), headers });
}
