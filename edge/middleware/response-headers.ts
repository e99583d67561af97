/** Headers of every response: request id, server timing, and helpers that set headers. */
import type { Context } from "hono";
import { createMiddleware } from "hono/factory";
import type { AppEnvironment } from "../dependencies.ts";
import { serverTiming } from "../observability/server-timing.ts";

/**
 * Sets headers in place, which Hono's `c.header` does by making a new response for each. Every response is our own, so none
 * is frozen as those of other services are.
 */
export function setHeaders(c: Context<AppEnvironment>, headers: Readonly<Record<string, string>>): void {
  const present = c.res.headers;
  for (const name in headers) present.set(name, headers[name]);
}

/** The same where the route says nothing else. */
export function presetHeaders(c: Context<AppEnvironment>, headers: Readonly<Record<string, string>>): void {
  const present = c.res.headers;
  for (const name in headers) if (!present.has(name)) present.set(name, headers[name]);
}

/** Gives every request an id of our own; one that a client sends is not trusted, since ids reach logs and the backend. */
export function requestId(newId: () => string) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const id = `req_${newId()}`;
    c.set("requestId", id);
    await next();
    setHeaders(c, { "x-request-id": id });
  });
}

/** Adds a total to responses without Server-Timing, and the pacing delay if there was one. */
export function totalTiming(now: () => number) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const { arrivedMs, pacedMs } = c.env;
    await next();
    presetHeaders(c, { "server-timing": serverTiming({ total: now() - arrivedMs }) });
    if (pacedMs > 0) c.res.headers.append("server-timing", serverTiming({ pace: pacedMs }));
  });
}
