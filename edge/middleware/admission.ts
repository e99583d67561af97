/** Admits requests by their tenant's limits, and sets `x-ratelimit-*` headers on every response. */
import { createMiddleware } from "hono/factory";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { setHeaders } from "./response-headers.ts";

/**
 * Counts every POST, also one that is refused for itself. GET and DELETE do not count. A refusal that is known comes before the
 * body is read; routes ask the ledger with the tokens of the request.
 */
export function admission({ admissions }: Dependencies) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    if (c.req.method !== "POST") return next();
    const tell = (headers: Record<string, string>) =>
      c.set("rateLimitHeaders", { ...c.get("rateLimitHeaders"), ...headers });
    const [requestId, access, region] = [c.get("requestId"), c.get("access"), c.get("region")];
    const pending = admissions.begin({ requestId, access, region, tell });
    c.set("admission", pending);
    await next();
    await pending.end();
  });
}

/** Also on error responses. */
export function rateLimitHeaders() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    await next();
    setHeaders(c, c.get("rateLimitHeaders") ?? {});
  });
}
