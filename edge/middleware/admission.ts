/** Admits requests by their tenant's limits, and sets `x-ratelimit-*` headers on every response. */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import type { Admission } from "../tenants/admission.ts";
import { setHeaders } from "./response-headers.ts";

/** Counts every POST before its body is read, so that a request that is refused later counts too. GET and DELETE do not. */
export function admission({ admissions }: Dependencies) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    if (c.req.method !== "POST") return next();
    const tell = (headers: Record<string, string>) =>
      c.set("rateLimitHeaders", { ...c.get("rateLimitHeaders"), ...headers });
    const [requestId, access, region] = [c.get("requestId"), c.get("access"), c.get("region")];
    const pending = await admissions.admit({ requestId, access, region, tell });
    c.set("admission", pending);
    try {
      await next();
    } finally {
      pending.release();
    }
  });
}

/**
 * Reserves at most `tokens` for the request; the caller settles the admission. Throws rate_limited or quota_exceeded with
 * the limit and the value.
 */
export function reserve(c: Context<AppEnvironment>, tokens: number): Promise<Admission> {
  return c.get("admission").reserve(tokens);
}

/** Also on error responses. */
export function rateLimitHeaders() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    await next();
    setHeaders(c, c.get("rateLimitHeaders") ?? {});
  });
}
