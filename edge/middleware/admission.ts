/** Between routes and a tenant's limits: asks for admission, and puts what it says about them on every response. */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import type { Admission } from "../tenants/admission.ts";
import { setHeaders } from "./response-headers.ts";

/**
 * Lets a request of `tokens` at most in; whoever is let in has to be settled. Throws rate_limited or quota_exceeded with
 * the limit and the value.
 */
export function admit(c: Context<AppEnvironment>, dependencies: Dependencies, tokens: number): Promise<Admission> {
  const requestId = c.get("requestId");
  return dependencies.admissions.admit({ requestId, tokens, access: c.get("access"), tell: tellIn(c) });
}

/** Refuses at once what is known to be refused, before its body is read. */
export function knownRefusals(dependencies: Dependencies) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    // What is read is not counted.
    if (c.req.method === "POST") dependencies.admissions.refuseKnown({ access: c.get("access"), tell: tellIn(c) });
    await next();
  });
}

function tellIn(c: Context<AppEnvironment>): (headers: Record<string, string>) => void {
  return (headers) => c.set("rateLimitHeaders", headers);
}

/** Errors have the headers, too. */
export function rateLimitHeaders() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    await next();
    setHeaders(c, c.get("rateLimitHeaders") ?? {});
  });
}
