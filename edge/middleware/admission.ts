/** Between routes and a tenant's limits: asks for admission, and puts what it says about them on every response. */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import type { Admission } from "../tenants/admission.ts";
import { setHeaders } from "./response-headers.ts";

/**
 * Counts every POST before anything of its body is read, so that one that is refused later counts, too. What is read
 * (GET) or removed is not counted.
 */
export function admission({ admissions }: Dependencies) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    if (c.req.method !== "POST") return next();
    const tell = (headers: Record<string, string>) =>
      c.set("rateLimitHeaders", { ...c.get("rateLimitHeaders"), ...headers });
    const pending = await admissions.admit({ requestId: c.get("requestId"), access: c.get("access"), tell });
    c.set("admission", pending);
    try {
      await next();
    } finally {
      pending.release();
    }
  });
}

/**
 * Lets a request of `tokens` at most go on; whoever has its admission settles it. Throws rate_limited or quota_exceeded
 * with the limit and the value.
 */
export function reserve(c: Context<AppEnvironment>, tokens: number): Promise<Admission> {
  return c.get("admission").reserve(tokens);
}

/** Errors have the headers, too. */
export function rateLimitHeaders() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    await next();
    setHeaders(c, c.get("rateLimitHeaders") ?? {});
  });
}
