/** GET /healthz: the Worker runs. GET /readyz: a completion would be answered, by a backend with the same artifacts. */
import type { Handler } from "hono";
import { holds } from "../../shared/contracts/inference.ts";
import type { Health, Ready } from "../../shared/contracts/responses.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";

const retryAfterSeconds = 2;

export function healthz(): Handler<AppEnvironment> {
  return (c) => c.json({ status: "ok" } satisfies Health);
}

export function readyz(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    const notReady = (message: string) => new ServiceError("backend_unavailable", message, { retryAfterSeconds });
    const { manifestHash } = await dependencies.artifacts();
    const backend = await dependencies.readiness(manifestHash);
    if (!backend) throw notReady("The inference backend is not ready.");
    if (!holds(backend, manifestHash)) {
      throw notReady(
        `The inference backend serves the manifest ${backend.manifestHash}, the edge has ${manifestHash}.`,
      );
    }
    return c.json({ status: "ready", manifest: manifestHash } satisfies Ready);
  };
}
