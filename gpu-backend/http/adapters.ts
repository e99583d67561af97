import type { Hono } from "hono";
import {
  adapterRequestSchema,
  type BatchRequest,
  errorFrame,
  ownAdaptersOf,
} from "../../shared/contracts/inference.ts";
import { toServiceError } from "../../shared/errors.ts";
import type { OwnAdapterService } from "../host/own-adapters/service.ts";
import type { Log } from "./log.ts";
import { readBody } from "./middleware.ts";
import { addTenantPaths, missing } from "./tenant-paths.ts";

type Adapters = Pick<OwnAdapterService, "begin" | "upload" | "store">;

export function addAdapterRoutes(app: Hono, adapters: Adapters, log: Log): void {
  addTenantPaths(app, "adapters", (tenant, hash) =>
    hash === null ? adapters.store.removeAll(tenant) : adapters.store.remove(tenant, hash),
  );

  /** If the caller leaves before the answer, the adapter is removed, because the edge does not know of it. */
  app.post("/v1/adapters", async (context) => {
    const request = await readBody(context, adapterRequestSchema);
    const { signal } = context.req.raw;
    const { answer } = await adapters.begin(request, signal);
    const outcome = answer.then(
      (made) => {
        const { tokens, timings, kept, gain } = made;
        log("info", "adapter", { tokens, kept, nats: gain?.nats ?? 0, ...timings });
        const failed = ({ message }: Error) => log("error", "adapter_not_removed", { message });
        const removeUndelivered = () => void adapters.store.remove(request.tenant, made.hash).catch(failed);
        // The signal aborts if the caller leaves, but never after the response is sent.
        if (signal.aborted) removeUndelivered();
        else signal.addEventListener("abort", removeUndelivered, { once: true });
        return made;
      },
      (thrown) => {
        const error = toServiceError(thrown);
        const level = error.kind === "internal" ? "error" : "warn";
        log(level, "adapter_failed", { kind: error.kind, message: thrown.message });
        return errorFrame("adapter", error);
      },
    );
    return context.body(ReadableStream.from(jsonAfterHead(outcome)), 201, { "content-type": "application/json" });
  });

  app.put("/v1/adapters/:tenant/:hash", async (context) => {
    const { tenant, hash } = context.req.param();
    await adapters.upload(tenant, hash, new Uint8Array(await context.req.arrayBuffer()));
    return context.body(null, 204);
  });
}

export async function requireAdapters(batch: BatchRequest, store: Adapters["store"]): Promise<void> {
  for (const hash of ownAdaptersOf(batch)) {
    if (!(await store.has(batch.sequences[0].tenant, hash))) throw missing("adapters", hash);
  }
}

/** A line feed precedes the JSON, so that the response's head is sent before `value` is there. */
async function* jsonAfterHead(value: Promise<unknown>): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const encoder = new TextEncoder();
  yield encoder.encode("\n");
  yield encoder.encode(JSON.stringify(await value));
}
