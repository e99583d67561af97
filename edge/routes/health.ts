/** GET /healthz: the Worker runs. GET /readyz: a backend with the same artifacts can serve a completion. */
import type { Handler } from "hono";
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import type { Health, Ready } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

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
/** Interval at which a request looks for the result of another request's probe, in milliseconds. */
const pollMs = 20;

interface Probe {
  manifestHash: string;
  begunMs: number;
  /** null while it runs. */
  ended: { ms: number; readiness: Readiness | null } | null;
}

/**
 * The isolate's last probe. Holds values, never promises: workerd may fail a request that awaits a promise of another one.
 * Each probe keeps its own result, so a late result does not replace a newer one.
 */
class Probes {
  readonly #dependencies: Pick<Dependencies, "readiness" | "now" | "background">;
  #last: Probe | null = null;

  constructor(dependencies: Pick<Dependencies, "readiness" | "now" | "background">) {
    this.#dependencies = dependencies;
  }

  /** The last result where it is new enough, else that of the probe that runs, else that of a new probe. */
  async readiness(manifestHash: string): Promise<Readiness | null> {
    const { now, background } = this.#dependencies;
    const last = this.#last;
    if (last?.manifestHash === manifestHash) {
      if (this.#isRunning(last)) return this.#resultOf(last);
      if (last.ended && now() - last.ended.ms < probeIntervalMs) return last.ended.readiness;
    }
    const result = this.#probe(manifestHash);
    // Goes on where its client leaves: the others rely on it.
    background(result.then(() => undefined));
    return result;
  }

  /** Never rejects. */
  async #probe(manifestHash: string): Promise<Readiness | null> {
    const { now, readiness } = this.#dependencies;
    const probe: Probe = { manifestHash, begunMs: now(), ended: null };
    this.#last = probe;
    const found = await readiness(manifestHash).catch(() => null);
    probe.ended = { ms: now(), readiness: found };
    return found;
  }

  /** Waits for another request's probe, with timers of this request's own; null where it takes too long. */
  async #resultOf(probe: Probe): Promise<Readiness | null> {
    while (this.#isRunning(probe)) await new Promise((resolve) => setTimeout(resolve, pollMs));
    return probe.ended?.readiness ?? null;
  }

  /** A probe that hangs stops counting after `longestProbeMs`. */
  #isRunning({ begunMs, ended }: Probe): boolean {
    return !ended && this.#dependencies.now() - begunMs < longestProbeMs;
  }
}
