/** GET /healthz: the Worker runs. GET /readyz: a backend with the same artifacts can serve a completion. */
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import type { Health, Ready } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import { Refreshed } from "../platform/refreshed.ts";
import type { Dependencies, RouteHandler } from "./dependencies.ts";

const retryAfterSeconds = 2;
/** Minimum interval between probes, in milliseconds. */
const probeIntervalMs = 1000;
/** Timeout of a probe, in milliseconds: above that of its calls. */
const probeTimeoutMs = 5000;

export const healthz: RouteHandler = (c, { version }) =>
  c.json({ status: "ok", ...(version && { version }) } satisfies Health);

/**
 * Needs no key, so that load balancers can call it. As each probe calls every backend, an isolate probes at most once per
 * `probeIntervalMs` and answers other requests from the last result.
 */
export function readyz({ artifacts, readiness, now, background }: Dependencies): RouteHandler {
  const probing = new Refreshed<Readiness[]>({ now, background }, { limitMs: probeTimeoutMs, isShared: true });
  const never = Number.NEGATIVE_INFINITY;
  let last = { manifestHash: "", ready: [] as Readiness[], begunMs: never, endedMs: never };

  async function probe(manifestHash: string): Promise<Readiness[]> {
    const begunMs = now();
    const ready = await readiness().catch(() => []);
    // A late result does not replace a newer one.
    if (last.begunMs <= begunMs) last = { manifestHash, ready, begunMs, endedMs: now() };
    return ready;
  }

  return async (c) => {
    const { manifestHash } = await artifacts();
    const isFresh = last.manifestHash === manifestHash && now() - last.endedMs < probeIntervalMs;
    const ready = isFresh ? last.ready : await probing.get(() => probe(manifestHash)).catch(() => []);
    if (!ready.some((backend) => holds(backend, manifestHash))) {
      const message =
        ready.length === 0
          ? "The inference backend is not ready."
          : `The inference backend serves the manifest ${ready[0].manifestHash}, the edge has ${manifestHash}.`;
      throw new ServiceError("backend_unavailable", message, { retryAfterSeconds });
    }
    return c.json({ status: "ready", manifest: manifestHash } satisfies Ready);
  };
}
