/** The name of this process on its answers, and the refusal of calls that are for another one. */
import type { MiddlewareHandler } from "hono";
import { nameHeader } from "../../shared/contracts/process-name.ts";
import { ServiceError } from "../../shared/errors.ts";

/** Sends the name with every answer, refusals included. */
export function sendName(name: string): MiddlewareHandler {
  return async (context, next) => {
    await next();
    context.res.headers.set(nameHeader, name);
  };
}

/** Throws a ServiceError "misdirected" for a call that names another process. */
export function requireOwnName(name: string): MiddlewareHandler {
  return async ({ req }, next) => {
    const wanted = req.header(nameHeader);
    if (wanted !== undefined && wanted !== name) {
      throw new ServiceError("misdirected", `This process is ${name}; the call is for ${wanted.slice(0, 63)}.`);
    }
    await next();
  };
}
