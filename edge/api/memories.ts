/** Documents of a tenant's own adapters. Each change builds a new memory, which replaces the old one. */
import { limits } from "../../shared/contracts/limits.ts";
import { addDocumentsRequestSchema } from "../../shared/contracts/openai.ts";
import { ServiceError } from "../../shared/errors.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { adapterMs } from "../dispatch/routing-limits.ts";
import { encodeDocuments } from "../plan/documents.ts";
import type { NewDocument } from "../tenants/memory-documents.ts";
import { outdated, refused, throwRefusal } from "../tenants/own-adapters.ts";
import { gzip, jsonBytes } from "../tenants/sealed-store.ts";
import type { OwnAdapters } from "../tenants/tenant-adapters.ts";
import type { DocumentChange, JobOutcome } from "../tenants/tenant-memories.ts";
import { adapterResponse, notFound } from "./adapter-object.ts";
import type { AppContext, Dependencies, RouteHandler } from "./dependencies.ts";
import { readUpload } from "./upload.ts";

export const addDocuments: RouteHandler = async (c, dependencies) => {
  const { documents } = await readUpload(c, dependencies, addDocumentsRequestSchema);
  const { name, before, own, artifacts } = await changeable(c, dependencies);
  const { tenant, memoryTokens } = c.get("access");
  const encoded = await encodeDocuments(documents ?? [], artifacts);
  const admission = await c.get("admission").reserve(encoded.tokens);
  const isWaited = encoded.tokens <= limits.memoryTokensAtOnce && !before.memory?.job;
  const consumed = consumptionOf(artifacts, name, encoded.tokens);
  let hasLeft = false;
  try {
    const change = {
      ...{ manifestHash: artifacts.manifestHash, maxTenantTokens: memoryTokens, keep: before.keep },
      added: await compressed(encoded.documents),
      charge: { request: admission.request, consumed, otherwise: null },
    };
    const work = makeMemory(own, { name, change, isNew: false, isWaited }, c.req.raw.signal);
    dependencies.background(work.then(noop, noop));
    const status = await work.catch((thrown) => {
      hasLeft = c.req.raw.signal.aborted;
      throw thrown;
    });
    return await adapterResponse(c, dependencies.adapters.of(tenant), name, artifacts, status === 201 ? 200 : 202);
  } finally {
    // The tenant's store charges for the memory. Only the work for a disconnected client is charged here.
    void admission.settle(hasLeft ? [consumed] : []);
  }
};

export const deleteDocument: RouteHandler = async (c, dependencies) => {
  const { name, before, own, artifacts } = await changeable(c, dependencies);
  const change = { manifestHash: artifacts.manifestHash, removed: c.req.param("document") ?? "" };
  const memory = { name, change, isNew: false, isWaited: !before.memory?.job };
  const status = await makeMemory(own, memory, c.req.raw.signal);
  const { tenant } = c.get("access");
  return adapterResponse(c, dependencies.adapters.of(tenant), name, artifacts, status === 201 ? 200 : 202);
};

/** The adapter whose documents the request changes. For fitted parts of another manifest, starts a refit and throws a ServiceError. */
async function changeable(c: AppContext, { adapters, ...dependencies }: Dependencies) {
  const name = c.req.param("name") ?? "";
  const { tenant } = c.get("access");
  const artifacts = await dependencies.artifacts();
  const own = adapters.of(tenant);
  const before = await own.find(name);
  if (!before) throw notFound(name);
  const { manifestHash } = artifacts;
  if (before.hash === null || before.manifestHash === manifestHash) return { name, before, own, artifacts };
  adapters.refit(tenant, manifestHash);
  throw outdated(before, manifestHash);
}

interface MemoryWork {
  name: string;
  change: DocumentChange;
  isNew: boolean;
  /** True if the request waits for the memory, at most `adapterMs`. If false, an alarm of the tenant's store builds the memory. */
  isWaited: boolean;
}

/**
 * Resolves to 201 when the memory is built, or to 202 when a job builds it. Throws a ServiceError if the build fails or the client
 * disconnects; the adapter then stays as before.
 * Do not use `own` afterwards: once its Durable Object is lost, all further calls of the stub fail.
 */
export async function makeMemory(
  own: OwnAdapters,
  { name, change, isNew, isWaited }: MemoryWork,
  signal: AbortSignal,
): Promise<201 | 202> {
  const changed = await own.changeDocuments(name, change, isNew);
  if ("kind" in changed) return throwRefusal(changed);
  const { hash, joinsJob } = changed;
  // A client that disconnects cancels the job it waits for, so no request waits for a job with other requests' documents.
  if (!isWaited || joinsJob) {
    await own.buildLater();
    return 202;
  }
  const gone = Promise.withResolvers<JobOutcome>();
  const leave = () => gone.resolve({ status: "cancelled", error: null });
  signal.addEventListener("abort", leave);
  if (signal.aborted) leave();
  // null: the store's object was lost during `build`. The store's alarm continues the job.
  const outcome = Promise.race([own.build(name).catch(() => null), gone.promise]);
  const ended = (await settlesWithin(outcome, adapterMs)) ? await outcome : null;
  signal.removeEventListener("abort", leave);
  if (ended === null) {
    await own.buildLater().catch(noop);
    return 202;
  }
  const { status, error } = ended;
  if (status === "ready") return 201;
  await own.abandon(name, hash);
  if (signal.aborted) throw new ServiceError("cancelled", "The client disconnected.");
  // A later change has replaced this job and includes its documents.
  if (status === "cancelled" && (await own.find(name))?.memory?.job) return 202;
  return throwRefusal(error ?? refused("adapter_not_found", `The adapter ${name} was deleted meanwhile.`));
}

/** Gzipped JSON; null for no documents. */
export async function compressed(documents: readonly NewDocument[]): Promise<DocumentChange["added"]> {
  return documents.length === 0 ? null : gzip(jsonBytes(documents));
}

export function consumptionOf({ manifest }: Artifacts, name: string, promptTokens: number) {
  const model = `${manifest.model.servedAs}:${name}`;
  return { model, centroid: null, requests: 1, promptTokens, completionTokens: 0 };
}

function noop(): void {}
