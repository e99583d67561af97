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

/**
 * Needs no key, so that load balancers can call it. Each probe is a signed call to every backend, so an isolate probes at
 * most once per `probeIntervalMs` and answers other requests from the last result.
 */
export function readyz(dependencies: Dependencies): Handler<AppEnvironment> {
  const probes = new Probes(dependencies);
  return async (c) => {
    const notReady = (message: string) => new ServiceError("backend_unavailable", message, { retryAfterSeconds });
    const { manifestHash } = await dependencies.artifacts();
    const backend = await probes.readiness(manifestHash);
    if (!backend) throw notReady("The inference backend is not ready.");
    if (!holds(backend, manifestHash)) {
      throw notReady(
        `The inference backend serves the manifest ${backend.manifestHash}, the edge has ${manifestHash}.`,
      );
    }
    return c.json({ status: "ready", manifest: manifestHash } satisfies Ready);
  };
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

/** The isolate's last probe. */
class Probes {
  readonly #dependencies: Pick<Dependencies, "readiness" | "now" | "background">;
  readonly #probing: SharedLoad<Probe>;
  #last: Probe | null = null;

  constructor(dependencies: Pick<Dependencies, "readiness" | "now" | "background">) {
    this.#dependencies = dependencies;
    this.#probing = new SharedLoad({ ...dependencies, limitMs: longestProbeMs });
  }

  /** The last result where it is new enough, else that of the probe that runs, else that of a new probe. */
  async readiness(manifestHash: string): Promise<Readiness | null> {
    const { now } = this.#dependencies;
    const last = this.#last;
    if (last?.manifestHash === manifestHash && now() - last.endedMs < probeIntervalMs) return last.readiness;
    const probe = await this.#probing.run(() => this.#probe(manifestHash)).catch(() => null);
    return probe?.manifestHash === manifestHash ? probe.readiness : null;
  }

  /** Never rejects. */
  async #probe(manifestHash: string): Promise<Probe> {
    const { now, readiness } = this.#dependencies;
    const begunMs = now();
    const found = await readiness(manifestHash).catch(() => null);
    const probe = { manifestHash, begunMs, endedMs: now(), readiness: found };
    // A late result does not replace a newer one.
    if (!this.#last || this.#last.begunMs <= begunMs) this.#last = probe;
    return probe;
  }
}
