/** The load of this process on its answers. */
import type { MiddlewareHandler } from "hono";
import { type BackendLoad, loadHeader, loadText } from "../../shared/contracts/backend-load.ts";

/** Sends the load with every answer, refusals included: what it is after the call has been handled. */
export function sendLoad(load: () => BackendLoad): MiddlewareHandler {
  return async (context, next) => {
    await next();
    context.res.headers.set(loadHeader, loadText(load()));
  };
}
