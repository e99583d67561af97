/** Headers on a response that is already there. */
import type { Context } from "hono";
import type { AppEnvironment } from "../dependencies.ts";

/**
 * Sets them in place, which Hono's `c.header` does by making a new response for each. Every response is our own, so none
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
