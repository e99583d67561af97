import type { Hono } from "hono";
import {
  type BatchRequest,
  heartbeatMs,
  type MemoryProgress,
  memoryRequestSchema,
} from "../../shared/contracts/inference.ts";
import { toServiceError } from "../../shared/errors.ts";
import { memoriesByTenant } from "../host/client.ts";
import type { MemoryService, RunningBuild } from "../host/memories/service.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { readBody } from "./middleware.ts";
import { addTenantPaths, missing } from "./tenant-paths.ts";

type Memories = Pick<MemoryService, "begin" | "remove" | "store">;

export function addMemoryRoutes(
  app: Hono,
  memories: Memories,
  { log, metrics }: { log: Log; metrics: Pick<Metrics, "memoryBuilt"> },
): void {
  addTenantPaths(app, "memories", (tenant, hash) => memories.remove(tenant, hash));

  /** The work ends when the caller leaves. Keys computed by then stay. */
  app.put("/v1/memories/:tenant/:hash", async (context) => {
    const { tenant, hash } = context.req.param();
    const request = await readBody(context, memoryRequestSchema);
    const left = new AbortController();
    const signal = AbortSignal.any([context.req.raw.signal, left.signal]);
    const running = await memories.begin(tenant, hash, request, signal);
    const documents = request.documents.length;
    const outcome = running.ready.then(
      (bytes): MemoryProgress => {
        const { totalTokens: tokens, computedTokens } = running.build;
        log("info", "memory", { documents, tokens, computedTokens, bytes });
        metrics.memoryBuilt("ready", computedTokens);
        return { type: "ready", tokens, bytes, computedTokens };
      },
      (thrown): MemoryProgress => {
        const { kind, message, retryAfterSeconds } = toServiceError(thrown);
        const level = kind === "internal" ? "error" : "warn";
        log(level, "memory_failed", { kind, message: thrown.message, tokens: running.build.tokens });
        metrics.memoryBuilt(kind, running.build.computedTokens);
        return { type: "error", kind, message, retryAfterSeconds };
      },
    );
    return context.body(progressStream(running, outcome, left), 200, {
      "content-type": "application/x-ndjson",
      "cache-control": "no-store",
    });
  });
}

export async function requireMemories(batch: BatchRequest, store: Memories["store"]): Promise<void> {
  for (const { tenant, hash } of memoriesByTenant(batch)) {
    if (!(await store.has(tenant, hash))) throw missing("memories", hash);
  }
}

/** Sends progress every `heartbeatMs`. Aborts `left` when the caller leaves. */
function progressStream(
  { build }: RunningBuild,
  outcome: Promise<MemoryProgress>,
  left: AbortController,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let timer: ReturnType<typeof setInterval> | undefined;
  return new ReadableStream({
    start(controller) {
      const send = (line: MemoryProgress) => controller.enqueue(encoder.encode(`${JSON.stringify(line)}\n`));
      const { totalTokens } = build;
      const sendProgress = () => send({ type: "progress", tokens: build.tokens, totalTokens });
      sendProgress();
      timer = setInterval(sendProgress, heartbeatMs);
      void outcome.then((line) => {
        clearInterval(timer);
        if (left.signal.aborted) return;
        send(line);
        controller.close();
      });
    },
    cancel() {
      clearInterval(timer);
      left.abort();
    },
  });
}
