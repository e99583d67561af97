/**
 * The headers of every response, errors included: its id and time, what it tells browsers (that nothing of ours is to be
 * embedded, guessed at, kept or referred to), the tenant's rate limits, and which page may read it.
 */

import { serverTiming } from "../platform/server-timing.ts";
import type { Middleware } from "./dependencies.ts";

const always = {
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
};
/** Set unless the route sets them. Documents may run scripts named by hash (routes/documents.ts); other responses run none. */
const presets = {
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cache-control": "no-store",
};
/** One year. Without subdomains, which may belong to others. */
const httpsOnly = "max-age=31536000";
/** Headers that pages of other origins may read. */
const exposed =
  "x-request-id, server-timing, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

export const responseHeaders: Middleware = async (c, next, { now }) => {
  const { arrivedMs, pacedMs } = c.env;
  await next();
  // Set in place, where Hono's `c.header` makes a new response for each. Every response is our own, so none is frozen.
  const { headers } = c.res;
  const set = (all: Readonly<Record<string, string>>) => {
    for (const name in all) headers.set(name, all[name]);
  };
  const preset = (all: Readonly<Record<string, string>>) => {
    for (const name in all) if (!headers.has(name)) headers.set(name, all[name]);
  };
  set(always);
  preset({ ...presets, "server-timing": serverTiming({ total: now() - arrivedMs }) });
  if (pacedMs > 0) headers.append("server-timing", serverTiming({ pace: pacedMs }));
  if (c.req.url.startsWith("https:")) set({ "strict-transport-security": httpsOnly });
  set({ "x-request-id": c.get("requestId"), ...c.get("rateLimitHeaders") });
  const origin = c.get("allowedOrigin");
  if (origin === undefined) return;
  set({ "access-control-allow-origin": origin, "access-control-expose-headers": exposed });
  headers.append("vary", "origin");
};
