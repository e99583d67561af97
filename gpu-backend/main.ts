/** The backend: serves HTTP and starts an engine process for each set. */
import { randomUUID } from "node:crypto";
import type { AddressInfo } from "node:net";
import { hostname, totalmem } from "node:os";
import { join } from "node:path";
import { isLoopback } from "../shared/loopback.ts";
import { createCommand, onStopRequest } from "./command-line.ts";
import { type BackendConfig, childEnvironment, chunkTokens, environmentSchema, readConfig } from "./config.ts";
import { artifactsOf } from "./engine/artifacts.ts";
import type { EngineClientParts, EngineObserver } from "./host/client.ts";
import { checkDevice } from "./host/device-check.ts";
import { idleCheckMs, idleMaking } from "./host/memories/idle-making.ts";
import { MemoryService } from "./host/memories/service.ts";
import { maxSets, memoryLimit, memorySentence, planMemory } from "./host/memory-plan.ts";
import { OwnAdapterService } from "./host/own-adapters/service.ts";
import { Follower } from "./host/sets/follower.ts";
import { ServingSets, startSet } from "./host/sets/serving-sets.ts";
import { openStore, setDownloads } from "./host/sets/set-folder.ts";
import { createApp } from "./http/app.ts";
import { jsonLog, type Log } from "./http/log.ts";
import { createMetrics, type Metrics } from "./http/metrics.ts";
import { callVerifier } from "./http/middleware.ts";
import { close, listen } from "./http/server.ts";
import { readBaseConfig } from "./models/base.ts";
import { addFlags, environmentNotes } from "./settings.ts";
import { tenantDirectory } from "./tenant-files/tenant-files.ts";
import { TenantStore } from "./tenant-files/tenant-store.ts";

const closeMs = 1000;
const leftoverCheckMs = 3_600_000;
const openToAll =
  "ANYBODY WHO REACHES THIS PORT MAY USE THE MODEL, AND REPLACE OR DELETE TENANTS' ADAPTERS AND MEMORIES: set BACKEND_SECRETS here and at the edge.";

const program = createCommand(
  "backend",
  "Serve the backend alone; it prints one JSON line once a token was generated",
  [
    "chameleon backend --device webgpu --weight-format fp32",
    "chameleon backend --model-dir ./my-model --weight-format int8 --max-sequences 8",
  ],
  environmentNotes(environmentSchema.shape),
);
const givenSettings = addFlags(program, environmentSchema.shape);
program.parse();

try {
  await run(readConfig(undefined, givenSettings()));
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
  const environment = childEnvironment();
  const device = await checkDevice(config, environment);
  const memory = planMemory({
    ...config,
    limitBytes: memoryLimit(process.constrainedMemory(), totalmem()),
    ...(await readBaseConfig(config.modelDirectory)),
    sets: config.artifactStore ? maxSets : 1,
    isOnDevice: device.name === "webgpu",
  });
  const memoryFields = { kvBytes: memory.kvBytes, message: memorySentence(memory) };
  const isTooMuch = memory.plannedBytes > memory.limitBytes;
  // Logged before the model is loaded, because the process may not survive the loading.
  if (isTooMuch) log("warn", "memory", memoryFields);
  if (device.selfTest !== "none") {
    const { name, adapter, driver, selfTest, found } = device;
    log(selfTest === "passed" ? "info" : "warn", "device", { device: name, adapter, driver, selfTest, message: found });
  }
  const storeOf = (kind: "adapters" | "memories", tenantBytes: number, totalBytes: number) =>
    new TenantStore({
      ...{ directory: tenantDirectory(config.dataDirectory, kind), tenantBytes, totalBytes },
      now: () => new Date(),
    });
  const store = storeOf("adapters", config.tenantAdapterBytes, config.adaptersBytes);
  const memoryStore = storeOf("memories", config.tenantMemoryBytes, config.memoriesBytes);
  // Errors are ignored here, because they are reported when a tenant's files are used.
  const removeLeftovers = () => {
    for (const one of [store, memoryStore]) void one.removeLeftovers().catch(() => undefined);
  };
  removeLeftovers();
  setInterval(removeLeftovers, leftoverCheckMs).unref();
  const metrics = createMetrics({
    ...{ memory, device },
    disk: { adapter: () => store.disk, memory: () => memoryStore.disk },
    stats: () => sets.stats,
    manifests: () => ({ all: sets.manifests, first: sets.info?.manifestHash ?? null }),
  });
  const start = async (artifactsDirectory: string) => {
    const { maxSequences, maxQueue, stepTokens } = config;
    const limits = { maxSequences, maxQueue, stepTokens, chunkTokens };
    const observer = { ...metrics, ...engineLog(log, metrics, config.weightFormat) };
    // Secrets stay in this process (see `childEnvironment`).
    const { secrets, artifactStore, ...open } = config;
    const settings = { ...open, device, kvBytes: memory.kvBytes, limits, artifactsDirectory };
    const unwrittenOf = (tenant: string, hash: string) =>
      store.unwritten(tenant, hash) ?? memoryStore.unwritten(tenant, hash);
    const bringMemory: EngineClientParts["bringMemory"] = (source, centroid) =>
      memories.bringOfCentroid(source, centroid).catch((error: unknown) => {
        log("warn", "centroid_memory_failed", { centroid, message: String(error) });
        throw error;
      });
    return startSet(settings, { observer, now, stallMs: config.stallMs, environment, unwrittenOf, bringMemory });
  };
  const read = config.artifactStore && openStore(config.artifactStore);
  const follower =
    read &&
    new Follower({
      ...{ sets, start, now, read },
      download: setDownloads(join(config.dataDirectory, "artifacts"), read, () => new Date()),
      limits: { sets: maxSets, graceMs: config.artifactGraceMs },
      observer: {
        adopted: (manifest) => log("info", "artifacts_adopted", { manifest }),
        retired: (manifest) => log("info", "artifacts_retired", { manifest }),
        refused(manifest, cause) {
          metrics.setRefused();
          log("warn", "artifacts_refused", { manifest, cause: String(cause) });
        },
      },
    });
  const setOf = (manifestHash: string) => sets.of(manifestHash);
  const dropMemory = (tenant: string, hash: string | null) => sets.dropMemory(tenant, hash);
  const adapters = new OwnAdapterService({ setOf, store, newId: randomUUID, now });
  const memories = new MemoryService({
    ...{ setOf, store: memoryStore, dropMemory, newId: randomUUID },
    isIdle: () => sets.openSequences === 0,
    centroidMade: (centroid, { tokens }) => log("info", "centroid_memory", { centroid, tokens }),
  });
  const verifyCall = config.secrets.length > 0 ? callVerifier(config.secrets, () => Date.now()) : null;
  if (!verifyCall && !isLoopback(config.host)) log("warn", "unsigned_calls", { host: config.host, message: openToAll });
  const name = config.name ?? newName();
  const load = () => ({ sequences: sets.openSequences, slots: config.maxSequences });
  const app = createApp({ name, device, sets, load, adapters, memories, metrics, log, verifyCall, now });
  const server = await listen(app.fetch, config);

  const leave = (code: number) => process.exit(code);
  let isClosing = false;
  const shutDown = async (signal: string) => {
    if (isClosing) leave(1);
    isClosing = true;
    log("info", "draining", { signal, sequences: sets.openSequences, limitMs: config.drainMs });
    follower?.stop();
    await sets.close(config.drainMs);
    await close(server, closeMs);
    leave(0);
  };
  onStopRequest(now, (signal) => void shutDown(signal));
  process.once("disconnect", () => leave(0));
  process.channel?.unref();

  // Artifacts of the model folder are served only if none are published.
  try {
    await follower?.applyPointer();
    if (!sets.info) sets.adopt(await start(artifactsOf(config.modelDirectory)));
  } catch (error) {
    // The signal that closes the backend may also have ended an engine during its start.
    if (isClosing) return;
    throw error;
  }
  if (!isTooMuch) log("info", "memory", memoryFields);
  const failed = (error: unknown) => log("warn", "centroid_memory_failed", { message: String(error) });
  setInterval(idleMaking({ sets, memories, failed }), idleCheckMs).unref();
  follower?.follow(config.artifactPollMs);
  const { port } = server.address() as AddressInfo;
  const url = `http://${config.host}:${port}`;
  const manifest = sets.info?.manifestHash;
  process.stdout.write(`${JSON.stringify({ ready: true, url, pid: process.pid, manifest })}\n`);
}

/** The name has a random ending, because a host may run several backends. */
function newName(): string {
  const host = hostname()
    .toLowerCase()
    .replaceAll(/[^a-z0-9-]/g, "-")
    .replaceAll(/^-+/g, "")
    .slice(0, 50);
  return `${host || "backend"}-${randomUUID().slice(0, 8)}`;
}

function engineLog(
  log: Log,
  metrics: Metrics,
  weightFormat: string,
): Pick<EngineObserver, "sequenceFaulted" | "engineReady" | "engineFailed"> {
  return {
    sequenceFaulted: (description) => log("error", "sequence_failed", { description }),
    engineReady({ device, warnings, manifestHash, numerics }, pid) {
      for (const message of warnings) log("warn", "engine", { message });
      log("info", "engine", { device, weightFormat, numerics, manifest: manifestHash, pid });
    },
    engineFailed(failure) {
      metrics.engineFailed(failure);
      const { manifestHash: manifest, how, error, failures, restartMs } = failure;
      const stack = error?.stack ?? null;
      log("error", "engine_failed", { manifest, message: `it ${how}`, stack, failures, restartMs });
    },
  };
}
