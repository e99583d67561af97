/** Between routes and a tenant's limits: asks for admission, and puts what it says about them on every response. */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import type { Admission } from "../tenants/admission.ts";

/**
 * Lets a request of `tokens` at most in; whoever is let in has to be settled. Throws rate_limited or quota_exceeded with
 * the limit and the value.
 */
export function admit(c: Context<AppEnvironment>, dependencies: Dependencies, tokens: number): Promise<Admission> {
  return dependencies.admit({
    requestId: c.get("requestId"),
    access: c.get("access"),
    tokens,
    tell: (headers) => c.set("rateLimitHeaders", headers),
  });
}

/** Errors have the headers, too. */
export function rateLimitHeaders() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    await next();
    for (const [name, value] of Object.entries(c.get("rateLimitHeaders") ?? {})) c.header(name, value);
  });
}
