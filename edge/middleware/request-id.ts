/** Gives every request an id of our own; one that a client sends is not trusted, since ids reach logs and the backend. */
import { createMiddleware } from "hono/factory";
import type { AppEnvironment } from "../dependencies.ts";
import { setHeaders } from "./response-headers.ts";

export function requestId(newId: () => string) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const id = `req_${newId()}`;
    c.set("requestId", id);
    await next();
    setHeaders(c, { "x-request-id": id });
  });
}
