/** Per-key pacing: delays a burst's requests before any other work is done. */
import { limits } from "../../shared/contracts/limits.ts";
import { pause, steadyClock } from "../platform/clock.ts";
import { regionOf } from "../platform/region.ts";
import { Pace, paceKeyOf } from "../tenants/pace.ts";
import type { Arrival } from "./dependencies.ts";

type Handle = (request: Request, arrival: Arrival) => Response | Promise<Response>;

export function paced(handle: Handle, now: () => number): (request: Request) => Promise<Response> {
  const pace = new Pace();
  const steadyNow = steadyClock(now);
  return async (request) => {
    const arrivedMs = now();
    const { headers, method } = request;
    const declaredBytes = declaredBytesOf(headers);
    const key = bearerKeyOf(headers);
    const arrival = { key, region: regionOf(request.cf), declaredBytes, arrivedMs, pacedMs: 0 };
    if (key === null) return handle(request, arrival);
    const paceKey = paceKeyOf(key);
    const bodyBytes = method === "POST" ? Math.min(declaredBytes ?? limits.bodyBytes, limits.bodyBytes) : 0;
    const waitMs = pace.waitMs(paceKey, steadyNow(), bodyBytes);
    // Each request has its own timer: workerd forbids a request to resolve a promise that another request awaits.
    if (waitMs > 0) await pause(waitMs);
    const response = await handle(request, waitMs > 0 ? { ...arrival, pacedMs: now() - arrivedMs } : arrival);
    if (response.status === 429) pace.refused(paceKey, steadyNow(), Number(response.headers.get("retry-after")) * 1000);
    return response;
  };
}

function declaredBytesOf(headers: Headers): number | null {
  const text = headers.get("content-length") ?? "";
  return /^\d+$/.test(text) ? Number(text) : null;
}

function bearerKeyOf(headers: Headers): string | null {
  return /^Bearer +(\S+)$/i.exec(headers.get("authorization") ?? "")?.[1] ?? null;
}
