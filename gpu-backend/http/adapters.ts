/**
 * Tenants' own adapters over HTTP: made of examples, fetched, brought from another backend, deleted. Each is named by
 * its tenant and its hash, and a wrong pair finds nothing.
 */
import type { Hono } from "hono";
import {
  adapterRequestSchema,
  type BatchRequest,
  hashPattern,
  ownAdaptersOf,
} from "../../shared/contracts/inference.ts";
import { tenantPattern } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { InstantAdapters } from "../engine/instant/service.ts";
import { readBody } from "./body.ts";
import type { Log } from "./log.ts";

type Adapters = Pick<InstantAdapters, "create" | "bring" | "store">;

export function addAdapterRoutes(app: Hono, adapters: Adapters, log: Log): void {
  app.post("/v1/adapters", async (context) => {
    const answer = await adapters.create(await readBody(context, adapterRequestSchema));
    const kept = answer.parts.filter((part) => part.kept).map(({ name }) => name);
    const { tokens, timings } = answer;
    log("info", "adapter", { tokens, kept: kept.join(" "), nats: answer.gain?.nats ?? 0, ...timings });
    return context.json(answer, 201);
  });

  app.get("/v1/adapters/:tenant/:hash", async (context) => {
    const { tenant, hash } = namesOf(context.req.param());
    const bytes = await adapters.store.read(tenant, hash);
    if (!bytes) throw missing(hash);
    return context.body(Uint8Array.from(bytes), 200, { "content-type": "application/octet-stream" });
  });

  app.put("/v1/adapters/:tenant/:hash", async (context) => {
    const { tenant, hash } = namesOf(context.req.param());
    await adapters.bring(tenant, hash, new Uint8Array(await context.req.arrayBuffer()));
    return context.body(null, 204);
  });

  app.delete("/v1/adapters/:tenant/:hash", async (context) => {
    const { tenant, hash } = namesOf(context.req.param());
    if (!(await adapters.store.remove(tenant, hash))) throw missing(hash);
    return context.body(null, 204);
  });
}

/** Throws a ServiceError "adapter_not_found" where a batch names a tenant's own adapter that is not here. */
export async function requireAdapters(batch: BatchRequest, store: Adapters["store"]): Promise<void> {
  for (const hash of ownAdaptersOf(batch)) {
    if (!(await store.has(batch.sequences[0].tenant, hash))) throw missing(hash);
  }
}

function namesOf({ tenant, hash }: { tenant: string; hash: string }): { tenant: string; hash: string } {
  if (!tenantPattern.test(tenant) || !hashPattern.test(hash)) throw missing(hash.slice(0, 64));
  return { tenant, hash };
}

function missing(hash: string): ServiceError {
  return new ServiceError("adapter_not_found", `There is no adapter ${hash} of this tenant.`);
}
