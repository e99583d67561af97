/**
 * Who may call /v1 and /admin. A CORS preflight has no key, so every preflight is accepted; the later call needs an allowed origin.
 * Security: the edge takes its own origin from the request's URL, so the platform or edge/local-worker.ts must check the request's host.
 */
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import { refusedByField } from "../platform/edge-metrics.ts";
import { regionWithin } from "../platform/region.ts";
import { decisionHeaders } from "../tenants/admission.ts";
import { type Access, scopeOf } from "../tenants/keys.ts";
import type { Decision } from "../tenants/quota.ts";
import type { AppContext, Middleware } from "./dependencies.ts";
import { idempotencyKeyOf } from "./idempotency.ts";

const methods = "GET, POST, DELETE";
const headerList = /^[\w-]+(, *[\w-]+)*$/;
const preflightSeconds = "600";

/** A page of any origin may read a 401, because a 401 reveals nothing about a tenant. */
export const preflight: Middleware = async (c, next) => {
  const origin = c.req.header("origin");
  if (c.req.method !== "OPTIONS" || !origin || !c.req.header("access-control-request-method")) {
    await next();
    if (origin && c.res.status === 401) c.set("allowedOrigin", origin);
    return;
  }
  const requested = c.req.header("access-control-request-headers") ?? "";
  const headers = {
    "access-control-allow-origin": origin,
    "access-control-allow-methods": methods,
    "access-control-allow-headers":
      headerList.test(requested) && requested.length < 2000 ? requested : "authorization, content-type",
    "access-control-max-age": preflightSeconds,
    vary: "origin, access-control-request-headers",
  };
  return new Response(null, { status: 204, headers });
};

export const auth: Middleware = async (c, next, { keys }) => {
  // Error messages are logged, so no message contains the key.
  const access = await keys.accessOf(keyOf(c), c.req.header("cf-connecting-ip") ?? "");
  const scope = scopeOf(c.req.path);
  if (scope && !access.scopes.includes(scope)) {
    const scopes = access.scopes.join(", ") || "none";
    throw new ServiceError("forbidden", `${c.req.path} needs a key with the scope ${scope}; this one has ${scopes}.`);
  }
  c.set("access", access);
  c.set("region", regionWithin(jurisdictionOf(access.tenant), c.env.region));
  allowOrigin(c, access);
  await next();
};

/** Refuses browsers even with the admin key. */
export const adminAuth: Middleware = async (c, next, { requireAdmin }) => {
  if (c.req.header("origin") !== undefined || c.req.header("sec-fetch-site") !== undefined) {
    throw new ServiceError("forbidden", "No web page may call the admin API.");
  }
  await requireAdmin(keyOf(c), c.req.header("cf-connecting-ip") ?? "");
  await next();
};

function keyOf(c: AppContext): string {
  const { key } = c.env;
  if (key !== null) return key;
  const isSent = c.req.header("authorization") !== undefined;
  const problem = isSent ? "The Authorization header is not of the form `Bearer <key>`" : "No API key";
  throw new ServiceError("unauthorized", `${problem}: send the header \`Authorization: Bearer <key>\`.`);
}

function allowOrigin(c: AppContext, { tenant, origins }: Access): void {
  const origin = c.req.header("origin");
  if (!origin || origin === URL.parse(c.req.url)?.origin) return;
  if (!origins.includes(origin)) {
    const shown = JSON.stringify(origin.slice(0, 100));
    const message = `Pages of ${shown} may not use keys of ${tenant}: the origin is not among the tenant's, which \`chameleon keys limits ${tenant} --origin ORIGIN …\` sets.`;
    throw new ServiceError("forbidden", message);
  }
  c.set("allowedOrigin", origin);
}

/** Counts every POST in the requests per minute, even an invalid one. `pending.end` counts a request that its route did not count. */
export const admission: Middleware = async (c, next, { beginAdmission }) => {
  if (c.req.method !== "POST") {
    await next();
    return;
  }
  const onDecision = (decision: Decision) => {
    c.set("rateLimitHeaders", { ...c.get("rateLimitHeaders"), ...decisionHeaders(decision) });
    if (decision.refusal) c.get("attributes")[refusedByField] = decision.refusal.limit;
  };
  const [requestId, access, region] = [c.get("requestId"), c.get("access"), c.get("region")];
  const idempotencyKey = await idempotencyKeyOf(c, access.tenant);
  c.set("idempotencyKey", idempotencyKey);
  const pending = beginAdmission({ requestId, access, region, idempotencyKey, onDecision });
  c.set("admission", pending);
  await next();
  await pending.end();
};
