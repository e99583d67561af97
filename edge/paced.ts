/**
 * The door of the Worker: requests of a key that brings many at once go in one after the other, at their key's pace. Around
 * the app rather than in it, for all that is done for a request before it waits is done for hundreds in one breath.
 */
import type { Arrival } from "./dependencies.ts";
import { mostBytesOf } from "./middleware/body.ts";
import { Pace, paceKeyOf } from "./tenants/pace.ts";

type Handle = (request: Request, arrival: Arrival) => Response | Promise<Response>;

/** `handle`, at a pace. It is told when a request came, so that the wait is part of what it says of it. */
export function paced(handle: Handle, now: () => number): (request: Request) => Promise<Response> {
  const pace = new Pace();
  return async (request) => {
    const arrivedMs = now();
    const authorization = request.headers.get("authorization");
    if (!authorization) return handle(request, { arrivedMs, pacedMs: 0 });
    const key = paceKeyOf(authorization);
    const waitMs = pace.waitMs(key, arrivedMs, request.method === "POST" ? mostBytesOf(request) : 0);
    // Each has a timer of its own: no request may be woken by another's.
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    const response = await handle(request, { arrivedMs, pacedMs: waitMs > 0 ? now() - arrivedMs : 0 });
    if (response.status === 429) pace.refused(key, now(), Number(response.headers.get("retry-after")) * 1000);
    return response;
  };
}
