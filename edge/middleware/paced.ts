/** Lets requests of a key that brings many at once start one after the other, before any work is done for them. */
import { createMiddleware } from "hono/factory";
import type { AppEnvironment } from "../dependencies.ts";
import { Pace, paceKeyOf } from "../tenants/pace.ts";

export function paced(now: () => number) {
  const pace = new Pace();
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const authorization = c.req.header("authorization");
    const waitMs = authorization ? pace.waitMs(paceKeyOf(authorization), now()) : 0;
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    await next();
  });
}
