/** Sets the Server-Timing header of responses whose route does not. */
import { createMiddleware } from "hono/factory";
import type { AppEnvironment } from "../dependencies.ts";
import { serverTiming } from "../observability/server-timing.ts";
import { presetHeaders } from "./response-headers.ts";

/** Gives a response that tells no phases its total, and one whose request waited for its key's pace that phase. */
export function totalTiming(now: () => number) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const { arrivedMs, pacedMs } = c.env;
    await next();
    presetHeaders(c, { "server-timing": serverTiming({ total: now() - arrivedMs }) });
    if (pacedMs > 0) c.res.headers.append("server-timing", serverTiming({ pace: pacedMs }));
  });
}
