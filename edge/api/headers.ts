/** Headers of every request and response, errors included. Long URLs and headers are refused before any other work. */
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { serverTiming } from "../platform/server-timing.ts";
import type { Middleware } from "./dependencies.ts";

const always = {
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
};
/** Defaults that a route may override. Only documents allow scripts (documents.ts). */
const presets = {
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cache-control": "no-store",
};
/** A browser uses only HTTPS for one year. `includeSubDomains` is absent, because subdomains may belong to others. */
const httpsOnly = "max-age=31536000";
const exposed =
  "x-request-id, server-timing, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

export const responseHeaders: Middleware = async (c, next, { now }) => {
  const { arrivedMs, pacedMs } = c.env;
  await next();
  // Set in place, because Hono's `c.header` makes a new response for each header.
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

export const headLimits: Middleware = async (c, next) => {
  const { url, headers } = c.req.raw;
  if (url.length > limits.urlCharacters) {
    const message = `The URL has ${url.length} characters, the maximum is ${limits.urlCharacters}.`;
    throw new ServiceError("url_too_long", message);
  }
  let characters = 0;
  headers.forEach((value, name) => {
    characters += name.length + value.length;
  });
  if (characters > limits.headerCharacters) {
    const message = `The headers have ${characters} characters together, the maximum is ${limits.headerCharacters}.`;
    throw new ServiceError("headers_too_large", message);
  }
  await next();
};
