/** GET /healthz: the Worker runs. GET /readyz: a backend with the served artifacts can answer a completion. */
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import type { Health, Ready } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import { Refreshed } from "../platform/refreshed.ts";
import type { Dependencies, RouteHandler } from "./dependencies.ts";

const retryAfterSeconds = 2;
const probeIntervalMs = 1000;
/** Longer than the timeout of each of the probe's calls. */
const probeTimeoutMs = 5000;

export const healthz: RouteHandler = (c, { version }) =>
  c.json({ status: "ok", ...(version && { version }) } satisfies Health);

/**
 * Needs no key, because load balancers call it. An isolate repeats a result for `probeIntervalMs`, because a probe calls every backend.
 * A call keeps a container running. So a deployment with containers counts as ready without a probe, unless `?wake=true` asks for it.
 */
export function readyz({ artifacts, readiness, hasContainers, now, background }: Dependencies): RouteHandler {
  const times = { refreshMs: probeIntervalMs, expireMs: probeIntervalMs, limitMs: probeTimeoutMs, isShared: true };
  const probing = new Refreshed<Readiness[]>({ now, background }, times);
  return async (c) => {
    const { manifestHash } = await artifacts();
    const answer = () => c.json({ status: "ready", manifest: manifestHash } satisfies Ready);
    if (hasContainers && c.req.query("wake") !== "true") return answer();
    const ready = await probing.get(() => readiness().catch(() => [])).catch(() => []);
    if (!ready.some((backend) => holds(backend, manifestHash))) {
      const message =
        ready.length === 0
          ? "The inference backend is not ready."
          : `The inference backend serves the manifest ${ready[0].manifestHash}, the edge has ${manifestHash}.`;
      throw new ServiceError("backend_unavailable", message, { retryAfterSeconds });
    }
    return answer();
  };
}
