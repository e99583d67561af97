/** Tenants' own adapters over HTTP: make, fetch, upload, delete. Each is named by tenant and hash; a wrong pair finds nothing. */
import type { Hono } from "hono";
import {
  adapterRequestSchema,
  type BatchRequest,
  errorFrame,
  ownAdaptersOf,
} from "../../shared/contracts/inference.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import type { OwnAdapterService } from "../host/own-adapters/service.ts";
import type { Log } from "./log.ts";
import { readBody } from "./middleware.ts";
import { requireFileNames, requireTenant } from "./tenant-paths.ts";

type Adapters = Pick<OwnAdapterService, "begin" | "upload" | "store">;

export function addAdapterRoutes(app: Hono, adapters: Adapters, log: Log): void {
  const removeUndelivered = (tenant: string, hash: string) =>
    adapters.store.remove(tenant, hash).catch(({ message }: Error) => log("error", "adapter_not_removed", { message }));

  /**
   * Responds when the work begins; the body is an `adapterOutcomeSchema`. The work ends when the caller leaves, and an adapter
   * whose answer the caller has not received is removed: no tenant's list at the edge would name it.
   */
  app.post("/v1/adapters", async (context) => {
    const request = await readBody(context, adapterRequestSchema);
    const { signal } = context.req.raw;
    const { answer } = await adapters.begin(request, signal);
    const outcome = answer.then(
      (made) => {
        const { tokens, timings, kept, gain } = made;
        log("info", "adapter", { tokens, kept, nats: gain?.nats ?? 0, ...timings });
        onAbort(signal, () => removeUndelivered(request.tenant, made.hash));
        return made;
      },
      (thrown) => {
        const error = toServiceError(thrown);
        log(error.kind === "internal" ? "error" : "warn", "adapter_failed", {
          kind: error.kind,
          message: thrown.message,
        });
        return errorFrame("adapter", error);
      },
    );
    return context.body(jsonStream(outcome), 201, { "content-type": "application/json" });
  });

  app.get("/v1/adapters/:tenant/:hash", async (context) => {
    const { tenant, hash } = requireFileNames(context.req.param(), missing);
    const bytes = await adapters.store.read(tenant, hash);
    if (!bytes) throw missing(hash);
    return context.body(Uint8Array.from(bytes), 200, { "content-type": "application/octet-stream" });
  });

  app.put("/v1/adapters/:tenant/:hash", async (context) => {
    const { tenant, hash } = requireFileNames(context.req.param(), missing);
    await adapters.upload(tenant, hash, new Uint8Array(await context.req.arrayBuffer()));
    return context.body(null, 204);
  });

  app.delete("/v1/adapters/:tenant", async (context) => {
    await adapters.store.removeAll(requireTenant(context.req.param("tenant")));
    return context.body(null, 204);
  });

  app.delete("/v1/adapters/:tenant/:hash", async (context) => {
    const { tenant, hash } = requireFileNames(context.req.param(), missing);
    await adapters.store.remove(tenant, hash);
    return context.body(null, 204);
  });
}

/** Throws a ServiceError "adapter_not_found" if an own adapter that the batch names is not here. */
export async function requireAdapters(batch: BatchRequest, store: Adapters["store"]): Promise<void> {
  for (const hash of ownAdaptersOf(batch)) {
    if (!(await store.has(batch.sequences[0].tenant, hash))) throw missing(hash);
  }
}

function missing(hash: string): ServiceError {
  return new ServiceError("adapter_not_found", `There is no adapter ${hash} of this tenant.`);
}

/** Calls `act` when a request's signal aborts, or at once if it has. It does not abort after the response is sent. */
function onAbort(signal: AbortSignal, act: () => void): void {
  if (signal.aborted) act();
  else signal.addEventListener("abort", act, { once: true });
}

/** A JSON body with a line feed before it, which is sent at once, so that the head is, too. */
function jsonStream(value: Promise<unknown>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    async start(controller) {
      controller.enqueue(encoder.encode("\n"));
      const bytes = encoder.encode(JSON.stringify(await value));
      try {
        controller.enqueue(bytes);
        controller.close();
      } catch {
        // The caller has left.
      }
    },
  });
}
