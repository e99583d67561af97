/**
 * Calls from web pages. A preflight carries no key, so it is answered to anybody and grants nothing by itself; the call
 * then needs an origin of the key's tenant, or our own, before any work is done for it.
 */
import { createMiddleware } from "hono/factory";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment } from "../dependencies.ts";
import { setHeaders } from "./response-headers.ts";

const methods = "GET, POST, DELETE";
const headerList = /^[\w-]+(, *[\w-]+)*$/;
const exposed =
  "x-request-id, server-timing, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";
const preflightSeconds = "600";

/** Before `auth`. */
export function preflight() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const origin = c.req.header("origin");
    if (c.req.method !== "OPTIONS" || !origin || !c.req.header("access-control-request-method")) return next();
    const asked = c.req.header("access-control-request-headers") ?? "";
    return new Response(null, {
      status: 204,
      headers: {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": methods,
        "access-control-allow-headers":
          headerList.test(asked) && asked.length < 2000 ? asked : "authorization, content-type",
        "access-control-max-age": preflightSeconds,
        vary: "origin, access-control-request-headers",
      },
    });
  });
}

/** After `auth`. Throws forbidden for a page that the tenant did not name. */
export function allowedOrigin() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const origin = c.req.header("origin");
    if (!origin || origin === URL.parse(c.req.url)?.origin) return next();
    const { tenant, origins } = c.get("access");
    if (!origins.includes(origin)) {
      const shown = JSON.stringify(origin.slice(0, 100));
      throw new ServiceError(
        "forbidden",
        `Pages of ${shown} may not use keys of ${tenant}; its origins are set by its limits.`,
      );
    }
    await next();
    setHeaders(c, { "access-control-allow-origin": origin, "access-control-expose-headers": exposed });
    c.res.headers.append("vary", "origin");
  });
}
