/**
 * CORS. A preflight carries no key, so every preflight is answered, and grants nothing by itself. The call after it needs
 * an origin of the key's tenant, or the edge's own, before any work is done for it. The edge's own origin is that of the
 * request's URL, so whatever routes requests to the Worker must check the host: the platform does, and so does the local
 * proxy (infra/local-proxy.ts).
 */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment } from "../dependencies.ts";
import { setHeaders } from "./response-headers.ts";

const methods = "GET, POST, DELETE";
const headerList = /^[\w-]+(, *[\w-]+)*$/;
const exposed =
  "x-request-id, server-timing, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";
const preflightSeconds = "600";

/**
 * Answers preflights, and lets the page of any origin read a 401: its key is of no tenant, so no origin is allowed or
 * refused, and the error says nothing that the page does not know. Runs before `auth`.
 */
export function preflight() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const origin = c.req.header("origin");
    if (c.req.method !== "OPTIONS" || !origin || !c.req.header("access-control-request-method")) {
      await next();
      if (origin && c.res.status === 401) allow(c, origin);
      return;
    }
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

/** Throws forbidden for a page whose origin is not among the tenant's. Runs after `auth`. */
export function allowedOrigin() {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const origin = c.req.header("origin");
    if (!origin || origin === URL.parse(c.req.url)?.origin) return next();
    const { tenant, origins } = c.get("access");
    if (!origins.includes(origin)) {
      const shown = JSON.stringify(origin.slice(0, 100));
      throw new ServiceError(
        "forbidden",
        `Pages of ${shown} may not use keys of ${tenant}: the origin is not among the tenant's.`,
      );
    }
    await next();
    allow(c, origin);
  });
}

function allow(c: Context<AppEnvironment>, origin: string): void {
  setHeaders(c, { "access-control-allow-origin": origin, "access-control-expose-headers": exposed });
  c.res.headers.append("vary", "origin");
}
