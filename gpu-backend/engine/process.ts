/** The engine's process. A step blocks its thread, and a native fault ends its process. Any error here also ends the process. */
import { setImmediate } from "node:timers/promises";
import type { ServiceError } from "../../shared/errors.ts";
import { defaultMemoryRule } from "../../shared/math/memory.ts";
import { AdapterCache } from "../adapters/generated/adapter-cache.ts";
import { generatedAdapters } from "../adapters/generated/generated.ts";
import { ownAdapterId, withOwnAdapters } from "../adapters/own/artifact.ts";
import { PrefixCache } from "../kv/prefix-cache.ts";
import { LruCache } from "../lru.ts";
import { centroidMemory } from "../memory/centroid-memories.ts";
import { MemoryCache } from "../memory/memory-cache.ts";
import { TenantFiles, tenantDirectory } from "../tenant-files/tenant-files.ts";
import { CentroidMemories } from "./centroid-memories.ts";
import { Engine } from "./engine.ts";
import { Grammars } from "./grammars.ts";
import type { EngineSettings, FromEngine, ToEngine } from "./messages.ts";
import { openRunner } from "./open-model.ts";
import { answerStartPrompt } from "./start-prompt.ts";
import type { TracedValues } from "./traces.ts";
import { sharedPieces } from "./vocabulary.ts";

if (!process.send) throw new Error("process.ts runs as a child process; start main.ts");
const toParent = process.send.bind(process);
// Signals are ignored, because a terminal or service manager also sends them to the parent, and the parent ends this process.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
process.once("disconnect", () => process.exit());
process.on("uncaughtException", fail);
process.once("message", (message: ToEngine) => {
  if (message.type === "start") void serve(message.settings).catch(fail);
});

/** Ignores errors: if the parent is gone, "disconnect" ends this process. */
function send(message: FromEngine): void {
  toParent(message, undefined, undefined, () => {});
}

function fail(thrown: unknown): void {
  const { message, stack = "" } = thrown instanceof Error ? thrown : new Error(String(thrown));
  const failed: FromEngine = { type: "failed", message, stack };
  toParent(failed, undefined, undefined, () => process.exit(1));
}

/** Own adapters and memories that are not on disk, by id. Entries may be evicted, because every batch brings what it needs. */
const unwritten = new LruCache<Uint8Array>(64 * 2 ** 20);

async function serve(settings: EngineSettings): Promise<void> {
  const now = () => performance.now();
  const opened = await openRunner(settings, now);
  const { manifest, manifestHash, tokenizer, hyperNetwork, runner, warnings } = opened;
  const filesOf = (kind: "adapters" | "memories", tenantBytes: number) => {
    const files = new TenantFiles({ directory: tenantDirectory(settings.dataDirectory, kind), tenantBytes });
    const read = async (tenant: string, hash: string) =>
      unwritten.get(ownAdapterId(tenant, hash)) ?? files.read(tenant, hash);
    return { read };
  };
  const shape = { manifestHash, ...runner.config };
  const adapterFiles = filesOf("adapters", settings.tenantAdapterBytes);
  const source = withOwnAdapters(generatedAdapters(manifest, hyperNetwork), adapterFiles, shape);
  let wake = () => {};
  const parts = {
    ...{ runner, now, limits: settings.limits },
    textPieceOf: (id: number) => tokenizer.textPieceOf(id),
  };
  const answer = await answerStartPrompt(parts, source, manifest.centroids[0]?.id ?? null);
  // Device and weight format precede the hash, so that a log shows why two fingerprints differ.
  const { name: device, rowsAreIndependent } = settings.device;
  const kind = rowsAreIndependent ? device : `${device}-by-batch`;
  const numerics = `${kind}-${settings.weightFormat}-${answer}`;
  const rule = manifest.memory ?? defaultMemoryRule;
  const memories = {
    ...{ source: filesOf("memories", settings.tenantMemoryBytes), shape },
    ...{
      textPieceOf: parts.textPieceOf,
      neighbours: rule.neighbours,
      threads: settings.threads,
      maximumBytes: settings.memoryCacheBytes,
    },
  };
  const cache = new MemoryCache(memories);
  const ofCentroids = new CentroidMemories({
    ...{ cache, source: { manifestHash, numerics } },
    want: (centroidId) => send({ type: "memoryWanted", centroidId }),
  });
  const { vocabularySize, stopIds } = runner.config;
  const threadData = () => ({ ...sharedPieces(vocabularySize, parts.textPieceOf), stopIds });
  const engine = new Engine({
    ...parts,
    grammars: new Grammars(threadData, now),
    adapters: new AdapterCache(source, now),
    memories: { cache, rule, ofCentroids },
    prefixCache: settings.prefixCacheBytes > 0 ? new PrefixCache(settings.prefixCacheBytes) : null,
    emit: (frames, report) => send({ type: "frames", frames, report, stats: engine.stats }),
    queued: () => wake(),
    progressed: () => send({ type: "progress" }),
    faulted: (error) => send({ type: "fault", description: descriptionOf(error) }),
  });
  const take = (id: string, values: TracedValues) => send({ type: "traced", id, values });

  let failure: unknown = null;
  process.on("message", (message: ToEngine) => {
    if (message.type === "submit") {
      for (const [id, bytes] of message.unwritten) unwritten.set(id, bytes, bytes.length);
      const fail = (error: unknown) => {
        failure = error;
        wake();
      };
      engine.submit(message.adapterId, message.sequences, message.traced && { ...message.traced, take }).catch(fail);
    } else if (message.type === "cancel") engine.cancel(message.ids);
    else if (message.type === "memoryBrought") {
      const { centroidId, unwritten: bytes, error } = message;
      const { tenant, hash } = centroidMemory({ manifestHash, numerics }, centroidId);
      if (bytes) unwritten.set(ownAdapterId(tenant, hash), bytes, bytes.length);
      ofCentroids.brought(centroidId, error);
    } else if (message.type === "dropMemory") {
      const { tenant, hash } = message;
      for (const id of unwritten.keys) if (id.startsWith(ownAdapterId(tenant, hash ?? ""))) unwritten.delete(id);
      engine.dropMemory(tenant, hash);
    }
    wake();
  });
  send({ type: "ready", info: { manifest, manifestHash, numerics, device, warnings } });

  for (;;) {
    if (failure) throw failure;
    if (engine.busy) {
      await engine.step();
      // Lets messages that came during the step be handled.
      await setImmediate();
    } else {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
}

/** An unknown error's message may contain tokens, so only its name and stack frames are used. */
function descriptionOf({ message, cause }: ServiceError): string {
  if (!(cause instanceof Error)) return message;
  const places = (cause.stack ?? "").split("\n").filter((line) => line.startsWith("    at "));
  return `${message}\n${cause.name}\n${places.join("\n")}`;
}
