/**
 * The backend: an engine in its thread for each set of artifacts, HTTP in this one. Prints one JSON line on stdout when a
 * real token has been generated; everything else goes to stderr. SIGTERM or SIGINT drains, a second one ends at once.
 */
import { randomUUID } from "node:crypto";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { serve } from "@hono/node-server";
import { Option } from "commander";
import { isLoopback } from "../shared/loopback.ts";
import { InstantStore } from "./adapters/instant/store.ts";
import { createCommand, onStopRequest } from "./command-line.ts";
import { type BackendConfig, chunkTokens, deviceNames, readConfig } from "./config.ts";
import { artifactsOf } from "./engine/artifacts.ts";
import { InstantAdapters } from "./engine/instant/service.ts";
import { openStore, type StoreSettings } from "./engine/sets/artifact-store.ts";
import { Follower } from "./engine/sets/follower.ts";
import { type ServingSet, ServingSets } from "./engine/sets/serving-sets.ts";
import { SetFolders } from "./engine/sets/set-folder.ts";
import { startSet } from "./engine/sets/start-set.ts";
import { createApp } from "./http/app.ts";
import { AssignmentCounter } from "./http/assignment-counter.ts";
import { CallVerifier } from "./http/call-verifier.ts";
import { jsonLog, type Log } from "./http/log.ts";
import { createMetrics, type Metrics } from "./http/metrics.ts";
import { Tracer } from "./http/tracing.ts";

/** How long connections may take to hear their last frames when the engine has died. */
const lastWordsMs = 1000;
/** The end of the process does not wait for an engine whose step has taken this long, in milliseconds. */
const shortStallMs = 5000;
const openToAll =
  "ANYBODY WHO REACHES THIS PORT MAY USE THE MODEL AND READ TENANTS' ADAPTERS: set BACKEND_SECRETS here and at the edge.";

const program = createCommand(
  "backend",
  "Serve the backend alone; it prints one JSON line once a token was generated",
  ["chameleon backend --device auto"],
  "Every setting is a variable of the environment: gpu-backend/config.ts names them with their defaults.",
).addOption(new Option("--device <name>", "what the trunk runs on; wins over DEVICE").choices(deviceNames));
const { device } = program.parse().opts<{ device?: string }>();

try {
  await run(readConfig(undefined, device ? { DEVICE: device } : {}));
} catch (error) {
  process.stderr.write(`chameleon backend: ${error instanceof Error ? error.message : error}\n`);
  process.exit(1);
}

async function run(config: BackendConfig): Promise<void> {
  const log = jsonLog(
    (line) => process.stderr.write(line),
    () => new Date(),
  );
  const now = () => performance.now();
  const sets = new ServingSets(now);
  const metrics = createMetrics({
    stats: () => sets.stats,
    manifests: () => ({ all: sets.manifests, first: sets.info?.manifestHash ?? null }),
  });
  const start = async (artifactsDirectory: string) => {
    const { maxSequences, maxQueue, stepTokens } = config;
    const limits = { maxSequences, maxQueue, stepTokens, chunkTokens };
    const observer = {
      ...metrics,
      sequenceFaulted: (description: string) => log("error", "sequence_failed", { description }),
    };
    const set = await startSet({ ...config, limits, artifactsDirectory }, { observer, now });
    const { device, deviceWarning, manifestHash } = set.info;
    if (deviceWarning) log("warn", "device", { message: deviceWarning });
    log("info", "engine", { device, weightFormat: config.weightFormat, manifest: manifestHash });
    return set;
  };
  const follower = config.artifactStore && followerOf(config, config.artifactStore, { sets, start, now, metrics, log });
  const adapters = new InstantAdapters({
    setOf: (manifestHash) => sets.of(manifestHash),
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
  const assignments = new AssignmentCounter(randomUUID(), (counted) => metrics.assigned(counted));
  const app = createApp({ sets, adapters, assignments, metrics, log, tracer, verifier, now });
  const server = await listen(app.fetch, config);

  /** Ends the process. `process.exit` waits for every thread, also for one stuck in native code, so that one is killed. */
  const leave = (code: number, isResponsive = sets.stalledMs < shortStallMs) => {
    if (isResponsive) process.exit(code);
    process.kill(process.pid, "SIGKILL");
  };
  let isClosing = false;
  const shutDown = async (signal: string) => {
    if (isClosing) leave(1);
    isClosing = true;
    log("info", "draining", { signal, sequences: sets.openSequences, limitMs: config.drainMs });
    follower?.stop();
    const isEnded = await sets.close(config.drainMs);
    if (!isEnded) log("error", "engine_hung", { message: "a thread did not end in time" });
    await close(server);
    await tracer?.flush();
    leave(0, isEnded);
  };
  onStopRequest(
    () => performance.now(),
    (signal) => void shutDown(signal),
  );
  // A parent that opened a channel takes the backend with it, however it ended.
  process.once("disconnect", () => leave(0));
  process.channel?.unref();

  // What is published goes first; where nothing is, or nothing that can be served, the model's own artifacts.
  await follower?.look();
  if (!sets.info) sets.adopt(await start(artifactsOf(config.modelDirectory)));
  follower?.follow(config.artifactPollMs);
  const { port } = server.address() as AddressInfo;
  const url = `http://${config.host}:${port}`;
  const manifest = sets.info?.manifestHash;
  process.stdout.write(`${JSON.stringify({ ready: true, url, pid: process.pid, manifest })}\n`);

  const failure = await sets.failed;
  if (isClosing) return;
  log("error", "engine_failed", { message: failure.message, stack: failure.stack ?? null });
  await close(server);
  leave(1);
}

interface FollowerNeeds {
  sets: ServingSets;
  start(artifactsDirectory: string): Promise<ServingSet>;
  now(): number;
  metrics: Metrics;
  log: Log;
}

function followerOf(config: BackendConfig, settings: StoreSettings, needs: FollowerNeeds): Follower {
  const { metrics, log, ...parts } = needs;
  const read = openStore(settings);
  return new Follower({
    ...parts,
    read,
    folders: new SetFolders(join(config.dataDirectory, "artifacts"), read, () => new Date()),
    limits: { sets: config.artifactSets, graceMs: config.artifactGraceMs },
    observer: {
      adopted: (manifest) => log("info", "artifacts_adopted", { manifest }),
      retired: (manifest) => log("info", "artifacts_retired", { manifest }),
      refused(manifest, cause) {
        metrics.setRefused();
        log("warn", "artifacts_refused", { manifest, cause: String(cause) });
      },
    },
  });
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
