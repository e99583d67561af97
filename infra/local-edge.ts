/** Runs the Worker on a local workerd, through wrangler's development server and a proxy in front of it. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hostsOf, startLocalProxy } from "./local-proxy.ts";
import { localHost } from "./ports.ts";
import { quietWrangler } from "./quiet-wrangler.ts";

/** The API key of a local start. No deployment knows its hash, so it is not a secret. */
export const localKey = "sk-chameleon-local";

/** Folder of a local edge's storage: keys, limits, usage. `chameleon keys` writes there, also while the edge runs. */
export function stateFolder(): string {
  return path.resolve(process.env.STATE_DIR || ".wrangler/state");
}

const text = (value: string) => ({ type: "plain_text" as const, value });

/** The OpenTelemetry settings of this process's environment, as bindings: edge and backend use the same collector. */
function collectorOf(env: NodeJS.ProcessEnv) {
  const names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER_ARG"];
  return Object.fromEntries(names.flatMap((name) => (env[name] ? [[name, text(env[name])]] : [])));
}

/** Timeout for wrangler's start, in milliseconds: longer than a slow machine takes. */
const startMs = 60_000;

/**
 * Starts the Worker and returns its origin once it takes requests; `secrets` sign its calls to backends. It ends with this
 * process. Throws an Error that says why it does not start.
 */
export async function startEdge(root: string, port: number, backendUrls: string[], secrets: string): Promise<string> {
  Object.assign(process.env, quietWrangler);
  const { unstable_startWorker: startWorker } = await import("wrangler");
  const hash = createHash("sha256").update(localKey).digest("hex");
  const worker = await startWorker({
    config: path.join(root, "wrangler.toml"),
    bindings: {
      BACKEND_URLS: text(backendUrls.join(",")),
      BACKEND_SECRETS: text(secrets),
      ...collectorOf(process.env),
      TENANT_KEYS: text(JSON.stringify([{ hash, tenant: "local" }])),
    },
    dev: {
      server: { hostname: localHost, port: 0 },
      inspector: false,
      watch: false,
      persist: stateFolder(),
      logLevel: "warn",
    },
  });
  // `worker.url` never settles where the server cannot start.
  const failed = once(worker.raw, "error").then(([event]) => {
    throw new Error(`the edge did not start: ${(event as Error).message ?? (event as { reason: string }).reason}`);
  });
  const late = sleep(startMs, null, { ref: false }).then(() => {
    throw new Error(`the edge did not start within ${startMs} ms`);
  });
  const target = await Promise.race([worker.url, failed, late]);
  return startLocalProxy(port, target, hostsOf(process.env.EDGE_HOSTS)).catch((error: Error) => {
    throw new Error(`the edge did not start: ${error.message}`);
  });
}
