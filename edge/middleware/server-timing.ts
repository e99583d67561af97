/** The Server-Timing header: phases where a route tells them, else the whole. Durations in milliseconds. */
import { createMiddleware } from "hono/factory";
import type { AppEnvironment } from "../dependencies.ts";
import { presetHeaders } from "./response-headers.ts";

/** `{ tokenize: 1.5 }` → `tokenize;dur=1.50`. The runtime's clock stands still between I/O, so pure work shows as 0. */
export function serverTiming(phases: object): string {
  return Object.entries(phases)
    .map(([phase, ms]) => `${phase};dur=${Number(ms).toFixed(2)}`)
    .join(", ");
}

/** Gives a response that tells no phases its total, and one whose request waited for its key's pace that phase. */
export function totalTiming(now: () => number) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const { arrivedMs, pacedMs } = c.env;
    await next();
    presetHeaders(c, { "server-timing": serverTiming({ total: now() - arrivedMs }) });
    if (pacedMs > 0) c.res.headers.append("server-timing", serverTiming({ pace: pacedMs }));
  });
}
