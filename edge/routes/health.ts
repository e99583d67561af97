/** GET /healthz: the Worker runs. GET /readyz: a backend with the same artifacts can serve a completion. */
import type { Handler } from "hono";
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import type { Health, Ready } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { SharedLoad } from "../platform/shared-load.ts";

const retryAfterSeconds = 2;

export function healthz({ version }: Pick<Dependencies, "version">): Handler<AppEnvironment> {
  return (c) => c.json({ status: "ok", ...(version && { version }) } satisfies Health);
}

/** Minimum interval between probes, in milliseconds. */
const probeIntervalMs = 1000;
/** A probe that takes longer counts as failed, in milliseconds; above the timeout of the call itself. */
const longestProbeMs = 5000;

interface Probe {
  manifestHash: string;
  begunMs: number;
  endedMs: number;
  readiness: Readiness | null;
}

/**
 * Needs no key, so that load balancers can call it. Each probe is a signed call to every backend, so an isolate probes at
 * most once per `probeIntervalMs` and answers other requests from the last result.
 */
export function readyz({ artifacts, readiness, now, background }: Dependencies): Handler<AppEnvironment> {
  const probing = new SharedLoad<Probe>({ limitMs: longestProbeMs, now, background });
  let last: Probe | null = null;

  async function probe(manifestHash: string): Promise<Probe> {
    const begunMs = now();
    const found = await readiness(manifestHash).catch(() => null);
    const ended = { manifestHash, begunMs, endedMs: now(), readiness: found };
    // A late result does not replace a newer one.
    if (!last || last.begunMs <= begunMs) last = ended;
    return ended;
  }

  /** The last result where it is new enough, else that of the probe that runs, else that of a new probe. */
  async function probed(manifestHash: string): Promise<Readiness | null> {
    if (last?.manifestHash === manifestHash && now() - last.endedMs < probeIntervalMs) return last.readiness;
    const ended = await probing.run(() => probe(manifestHash)).catch(() => null);
    return ended?.manifestHash === manifestHash ? ended.readiness : null;
  }

  return async (c) => {
    const notReady = (message: string) => new ServiceError("backend_unavailable", message, { retryAfterSeconds });
    const { manifestHash } = await artifacts();
    const backend = await probed(manifestHash);
    if (!backend) throw notReady("The inference backend is not ready.");
    if (!holds(backend, manifestHash)) {
      throw notReady(
        `The inference backend serves the manifest ${backend.manifestHash}, the edge has ${manifestHash}.`,
      );
    }
    return c.json({ status: "ready", manifest: manifestHash } satisfies Ready);
  };
}
