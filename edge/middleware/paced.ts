/**
 * Per-key pacing: delays the requests of a key that sends many at once. It wraps the app rather than being middleware of it,
 * so that a delayed request has cost nothing but reading its key.
 */
import type { Arrival } from "../dependencies.ts";
import { regionOf } from "../platform/region.ts";
import { bearerKeyOf } from "../tenants/bearer-key.ts";
import { Pace, paceKeyOf } from "../tenants/pace.ts";
import { mostBytesOf } from "./body.ts";

type Handle = (request: Request, arrival: Arrival) => Response | Promise<Response>;

/** Wraps `handle` in per-key pacing. `handle` receives the arrival time, so that it can report the delay. */
export function paced(handle: Handle, now: () => number): (request: Request) => Promise<Response> {
  const pace = new Pace();
  return async (request) => {
    const arrivedMs = now();
    const region = regionOf(request.cf);
    const key = bearerKeyOf(request.headers);
    if (key === null) return handle(request, { key, region, arrivedMs, pacedMs: 0 });
    const paceKey = paceKeyOf(key);
    const waitMs = pace.waitMs(paceKey, arrivedMs, request.method === "POST" ? mostBytesOf(request) : 0);
    // One timer per request: workerd does not let one request resolve what another awaits.
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    const response = await handle(request, { key, region, arrivedMs, pacedMs: waitMs > 0 ? now() - arrivedMs : 0 });
    if (response.status === 429) pace.refused(paceKey, now(), Number(response.headers.get("retry-after")) * 1000);
    return response;
  };
}
