/** GET /healthz: the Worker runs. GET /readyz: a backend with the same artifacts can serve a completion. */
import type { Handler } from "hono";
import { holds, type Readiness } from "../../shared/contracts/inference.ts";
import type { Health, Ready } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

const retryAfterSeconds = 2;

export function healthz(): Handler<AppEnvironment> {
  return (c) => c.json({ status: "ok" } satisfies Health);
}

/**
 * Needs no key, so that load balancers can call it. Each probe is a signed call to every backend, so an isolate probes at
 * most once per `probeIntervalMs` and answers other requests from the last result.
 */
export function readyz(dependencies: Dependencies): Handler<AppEnvironment> {
  const lastProbe = new LastProbe(dependencies);
  return async (c) => {
    const notReady = (message: string) => new ServiceError("backend_unavailable", message, { retryAfterSeconds });
    const { manifestHash } = await dependencies.artifacts();
    const backend = await lastProbe.readiness(manifestHash);
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
/** Interval at which a request polls for the first result, in milliseconds. */
const pollMs = 20;

/**
 * The result of the isolate's last probe. Holds values, never promises: workerd may fail a request that awaits another
 * request's promise.
 */
class LastProbe {
  readonly #dependencies: Pick<Dependencies, "readiness" | "now" | "background">;
  #result: { manifestHash: string; readiness: Readiness | null; endedMs: number } | null = null;
  /** Start of the running probe; null when none runs. */
  #begunMs: number | null = null;

  constructor(dependencies: Pick<Dependencies, "readiness" | "now" | "background">) {
    this.#dependencies = dependencies;
  }

  /** Probes if the last result is too old and no other request is probing; otherwise returns the last result. */
  async readiness(manifestHash: string): Promise<Readiness | null> {
    const { now, background } = this.#dependencies;
    const result = this.#resultFor(manifestHash);
    if (result && now() - result.endedMs < probeIntervalMs) return result.readiness;
    if (!this.#isProbing()) {
      const probe = this.#probe(manifestHash);
      // Continues if its client disconnects: other requests use its result.
      background(
        probe.then(
          () => undefined,
          () => undefined,
        ),
      );
      return probe;
    }
    if (result) return result.readiness;
    // The isolate's first probe is running: each other request polls for its result with its own timer.
    while (this.#isProbing()) {
      await new Promise((resolve) => setTimeout(resolve, pollMs));
      const first = this.#resultFor(manifestHash);
      if (first) return first.readiness;
    }
    return null;
  }

  async #probe(manifestHash: string): Promise<Readiness | null> {
    const { now, readiness } = this.#dependencies;
    const begunMs = now();
    this.#begunMs = begunMs;
    try {
      const found = await readiness(manifestHash);
      this.#result = { manifestHash, readiness: found, endedMs: now() };
      return found;
    } finally {
      if (this.#begunMs === begunMs) this.#begunMs = null;
    }
  }

  /** False once a probe has run for `longestProbeMs`. */
  #isProbing(): boolean {
    return this.#begunMs !== null && this.#dependencies.now() - this.#begunMs < longestProbeMs;
  }

  #resultFor(manifestHash: string) {
    return this.#result?.manifestHash === manifestHash ? this.#result : null;
  }
}
