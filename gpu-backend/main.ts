/**
 * The backend: one engine in its thread, HTTP in this one. Prints one JSON line on stdout when a real token has been
 * generated; everything else goes to stderr. SIGTERM or SIGINT drains, a second one ends at once.
 */
import { randomUUID } from "node:crypto";
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import { InstantStore } from "./adapters/instant/store.ts";
import { type BackendConfig, readConfig } from "./config.ts";
import { EngineClient } from "./engine/client.ts";
import { FitClient } from "./engine/instant/fit-client.ts";
import { InstantAdapters } from "./engine/instant/service.ts";
import { createApp } from "./http/app.ts";
import { CallVerifier } from "./http/call-verifier.ts";
import { jsonLog } from "./http/log.ts";
import { createMetrics } from "./http/metrics.ts";
import { Tracer } from "./http/tracing.ts";

/** Prompt tokens a sequence prefills per step; part of how a prompt is computed, so no setting. */
const chunkTokens = 64;
/** How long connections may take to hear their last frames when the engine has died. */
const lastWordsMs = 1000;
const openToAll =
  "ANYBODY WHO REACHES THIS PORT MAY USE THE MODEL AND READ TENANTS' ADAPTERS: set BACKEND_SECRETS here and at the edge.";

try {
  await run(readConfig(undefined, process.argv.slice(2)));
} catch (error) {
  process.stderr.write(`chameleon backend: ${error instanceof Error ? error.message : error}\n`);
  process.exit(1);
}

async function run(config: BackendConfig): Promise<void> {
  const log = jsonLog(
    (line) => process.stderr.write(line),
    () => new Date(),
  );
  const metrics = createMetrics(() => engine.stats);
  const { maxSequences, maxQueue, stepTokens } = config;
  const engine: EngineClient = new EngineClient(
    { ...config, limits: { maxSequences, maxQueue, stepTokens, chunkTokens } },
    metrics,
  );
  const now = () => performance.now();
  const fitter = new FitClient(config.modelDirectory);
  const adapters = new InstantAdapters({
    engine,
    fitter,
    store: new InstantStore(config.dataDirectory, config.tenantAdapterBytes, () => new Date()),
    withDirections: config.adapterSlots > 0,
    newId: () => randomUUID(),
    now,
  });
  const tracer =
    config.otlp &&
    new Tracer({
      target: config.otlp,
      fetch,
      newSpanId: () => randomUUID().replaceAll("-", "").slice(0, 16),
      epochMs: () => performance.timeOrigin + performance.now(),
      log,
    });
  const verifier = config.secrets.length > 0 ? new CallVerifier(config.secrets, () => Date.now()) : null;
  if (!verifier && !isLoopback(config.host)) log("warn", "unsigned_calls", { host: config.host, message: openToAll });
  const app = createApp({ engine, adapters, metrics, log, tracer, verifier, now });
  const server = await listen(app.fetch, config);

  let isClosing = false;
  const shutDown = async (signal: string) => {
    if (isClosing) process.exit(1);
    isClosing = true;
    log("info", "draining", { signal, sequences: engine.openSequences, limitMs: config.drainMs });
    await engine.close(config.drainMs);
    await fitter.close();
    await close(server);
    await tracer?.flush();
    process.exit(0);
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => void shutDown(signal));
  // A parent that opened a channel takes the backend with it, however it ended.
  process.once("disconnect", () => process.exit(0));
  process.channel?.unref();

  const { manifestHash, device, deviceWarning } = await engine.ready;
  if (deviceWarning) log("warn", "device", { message: deviceWarning });
  log("info", "ready", { device, weightFormat: config.weightFormat });
  const { port } = server.address() as AddressInfo;
  const url = `http://${config.host}:${port}`;
  process.stdout.write(`${JSON.stringify({ ready: true, url, pid: process.pid, manifest: manifestHash })}\n`);

  const failure = await engine.ended;
  if (!failure) return;
  log("error", "engine_failed", { message: failure.message, stack: failure.stack ?? null });
  await close(server);
  process.exit(1);
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\./.test(host);
}

type Server = ReturnType<typeof serve>;

/** Throws an Error that names host and port where they cannot be had. */
function listen(fetch: Parameters<typeof serve>[0]["fetch"], { host, port }: BackendConfig): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = serve({ fetch, hostname: host, port }, () => resolve(server));
    server.once("error", (error: NodeJS.ErrnoException) => {
      const why = error.code === "EADDRINUSE" ? "the port is in use" : error.message;
      reject(new Error(`cannot listen on ${host}:${port}: ${why}`));
    });
  });
}

/** Resolves when every answer under way is written, or after `lastWordsMs`. */
function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    if ("closeIdleConnections" in server) server.closeIdleConnections();
    setTimeout(resolve, lastWordsMs).unref();
  });
}
