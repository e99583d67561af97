/**
 * Who may call /v1: the key's tenant and scopes, the page's origin, and the tenant's limits.
 *
 * CORS: a preflight carries no key, so every preflight is answered, and grants nothing by itself. The call after it needs an
 * origin of the key's tenant, or the edge's own, before any work is done for it. The edge's own origin is that of the
 * request's URL, so whatever routes requests to the Worker must check the host: the platform does, and so does the entry of a
 * local start (edge/local-worker.ts).
 */
import type { Context } from "hono";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import { refusedByField } from "../platform/edge-metrics.ts";
import { regionWithin } from "../platform/region.ts";
import { decisionHeaders } from "../tenants/admission.ts";
import { type Access, scopeOf } from "../tenants/keys.ts";
import type { Decision } from "../tenants/quota.ts";
import type { AppEnvironment, Middleware } from "./dependencies.ts";

const methods = "GET, POST, DELETE";
const headerList = /^[\w-]+(, *[\w-]+)*$/;
const preflightSeconds = "600";

/** Answers preflights, and lets a page of any origin read a 401. */
export const preflight: Middleware = async (c, next) => {
  const origin = c.req.header("origin");
  if (c.req.method !== "OPTIONS" || !origin || !c.req.header("access-control-request-method")) {
    await next();
    // The page of any origin may read a 401: its key is of no tenant, and the error says nothing that the page does not know.
    if (origin && c.res.status === 401) c.set("allowedOrigin", origin);
    return;
  }
  const asked = c.req.header("access-control-request-headers") ?? "";
  const headers = {
    "access-control-allow-origin": origin,
    "access-control-allow-methods": methods,
    "access-control-allow-headers":
      headerList.test(asked) && asked.length < 2000 ? asked : "authorization, content-type",
    "access-control-max-age": preflightSeconds,
    vary: "origin, access-control-request-headers",
  };
  return new Response(null, { status: 204, headers });
};

/** Checks the API key: which tenant it belongs to, and whether its scopes allow this route, and the tenant's origins this page. */
export const auth: Middleware = async (c, next, { keys }) => {
  const { key } = c.env;
  if (key === null) {
    const isSent = c.req.header("authorization") !== undefined;
    const problem = isSent ? "The Authorization header is not of the form `Bearer <key>`" : "No API key";
    throw new ServiceError("unauthorized", `${problem}: send the header \`Authorization: Bearer <key>\`.`);
  }
  // No message repeats the key: messages are logged.
  const access = await keys.accessOf(key, c.req.header("cf-connecting-ip") ?? "");
  const scope = scopeOf(c.req.path);
  if (scope && !access.scopes.includes(scope)) {
    throw new ServiceError(
      "forbidden",
      `${c.req.path} needs a key with the scope ${scope}; this one has ${access.scopes.join(", ") || "none"}.`,
    );
  }
  c.set("access", access);
  c.set("region", regionWithin(jurisdictionOf(access.tenant), c.env.region));
  allowOrigin(c, access);
  await next();
};

/** Throws forbidden for a page whose origin is not among the tenant's. */
function allowOrigin(c: Context<AppEnvironment>, { tenant, origins }: Access): void {
  const origin = c.req.header("origin");
  if (!origin || origin === URL.parse(c.req.url)?.origin) return;
  if (!origins.includes(origin)) {
    const shown = JSON.stringify(origin.slice(0, 100));
    const message = `Pages of ${shown} may not use keys of ${tenant}: the origin is not among the tenant's.`;
    throw new ServiceError("forbidden", message);
  }
  c.set("allowedOrigin", origin);
}

/**
 * Counts every POST in the requests a minute, also an invalid one (400, 404, 413, 415). Where its route did not ask the ledger,
 * this does after the route; a refusal then replaces the route's response. GET and DELETE do not count. A refusal that is known
 * comes before the body is read. The ledger is asked before a large body is read (body.ts), else by routes, with the tokens.
 */
export const admission: Middleware = async (c, next, { admissions }) => {
  if (c.req.method !== "POST") {
    await next();
    return;
  }
  const onDecision = (decision: Decision) => {
    c.set("rateLimitHeaders", { ...c.get("rateLimitHeaders"), ...decisionHeaders(decision) });
    if (decision.refusal) c.get("attributes")[refusedByField] = decision.refusal.limit;
  };
  const [requestId, access, region] = [c.get("requestId"), c.get("access"), c.get("region")];
  const pending = admissions.begin({ requestId, access, region, onDecision });
  c.set("admission", pending);
  await next();
  await pending.end();
};
