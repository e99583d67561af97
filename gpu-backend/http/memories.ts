/** Tenants' memories over HTTP: make, delete. Each is named by tenant and hash; a wrong pair finds nothing. */
import type { Context, Hono } from "hono";
import {
  type BatchRequest,
  heartbeatMs,
  type MemoryProgress,
  memoryRequestSchema,
} from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { memoriesByTenant } from "../host/client.ts";
import type { MemoryService, RunningBuild } from "../host/memories/service.ts";
import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { readBody } from "./middleware.ts";
import { requireFileNames, requireTenant } from "./tenant-paths.ts";

type Memories = Pick<MemoryService, "begin" | "remove" | "store">;

export function addMemoryRoutes(
  app: Hono,
  memories: Memories,
  { log, metrics }: { log: Log; metrics: Pick<Metrics, "memoryBuilt"> },
): void {
  /** The body is `memoryProgressSchema` lines. The work ends when the caller leaves; what was computed until then stays. */
  app.put("/v1/memories/:tenant/:hash", async (context) => {
    const { tenant, hash } = requireFileNames(context.req.param(), missing);
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

  app.delete("/v1/memories/:tenant", (context) => remove(context, requireTenant(context.req.param("tenant")), null));

  app.delete("/v1/memories/:tenant/:hash", async (context) => {
    const { tenant, hash } = requireFileNames(context.req.param(), missing);
    return remove(context, tenant, hash);
  });

  async function remove(context: Context, tenant: string, hash: string | null): Promise<Response> {
    await memories.remove(tenant, hash);
    return context.body(null, 204);
  }
}

/** Throws a ServiceError "memory_not_found" if a memory that a sequence of the batch names is not here. */
export async function requireMemories(batch: BatchRequest, store: Memories["store"]): Promise<void> {
  for (const { tenant, hash } of memoriesByTenant(batch)) {
    if (!(await store.has(tenant, hash))) throw missing(hash);
  }
}

function missing(hash: string): ServiceError {
  return new ServiceError("memory_not_found", `There is no memory ${hash} of this tenant.`);
}

/** A line of progress at once and after each `heartbeatMs`, then the outcome. `left` aborts when the caller leaves. */
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
