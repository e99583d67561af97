/** Only the edge calls this interface. */
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { BackendLoad } from "../../shared/contracts/backend-headers.ts";
import {
  type BatchRequest,
  batchRequestSchema,
  cancelRequestSchema,
  type Frame,
  numericsHeader,
  ownAdaptersOf,
  type Readiness,
  readNumerics,
  type ServingDevice,
} from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { envelopeOf, ServiceError, statusOf, toServiceError } from "../../shared/errors.ts";
import { requireNumerics } from "../engine/refusals.ts";
import { type EngineClient, memoriesByTenant } from "../host/client.ts";
import type { MemoryService } from "../host/memories/service.ts";
import type { OwnAdapterService } from "../host/own-adapters/service.ts";
import type { ServingSets } from "../host/sets/serving-sets.ts";
import { addAdapterRoutes, requireAdapters } from "./adapters.ts";
import { type BatchOutcome, frameStream } from "./frame-stream.ts";
import { centroidLabel, type Log } from "./log.ts";
import { addMemoryRoutes, requireMemories } from "./memories.ts";
import type { Metrics } from "./metrics.ts";
import {
  checkSignature,
  readBody,
  requireOwnName,
  requireSignature,
  requireSignedBody,
  sendState,
  type VerifyCall,
} from "./middleware.ts";

/** Room for `sequencesPerBatch` sequences with prompts of 1024 tokens and as many logit biases as allowed. */
const batchBodyBytes = 8 * 2 ** 20;

type Sets = Pick<ServingSets, "cancel" | "requireServing" | "serving"> & {
  of(manifestHash: string): { engine: Pick<EngineClient, "info" | "submit" | "cancel"> };
};

export interface AppParts {
  name: string;
  device: ServingDevice;
  sets: Sets;
  load(): BackendLoad;
  adapters: Pick<OwnAdapterService, "begin" | "upload" | "store">;
  memories: Pick<MemoryService, "begin" | "remove" | "store">;
  metrics: Metrics;
  log: Log;
  /** If null, anybody may call. */
  verifyCall: VerifyCall | null;
  /** A monotonic clock, in milliseconds. */
  now(): number;
}

export function createApp(parts: AppParts): Hono {
  const { name, sets, load, adapters, memories, metrics, log, verifyCall, now } = parts;
  const app = new Hono();
  app.use(sendState(name, load), requireOwnName(name));
  if (verifyCall) {
    app.use("/v1/*", requireSignature(verifyCall), limitBody, requireSignedBody);
    app.use("/readyz", checkSignature(verifyCall));
  } else app.use("/v1/*", limitBody);
  app.post("/v1/*", requireJson);
  addAdapterRoutes(app, adapters, log);
  addMemoryRoutes(app, memories, { log, metrics });

  app.post("/v1/batches", async (context) => {
    const batch = await readBody(context, batchRequestSchema);
    const { engine } = sets.of(batch.manifestHash);
    // An engine with another manifest refuses the batch itself.
    const numerics = engine.info?.manifestHash === batch.manifestHash ? engine.info.numerics : null;
    requireNumerics(readNumerics(context.req.header(numericsHeader)), numerics, batch);
    await requireAdapters(batch, adapters.store);
    await requireMemories(batch, memories.store);
    const startedMs = now();
    const ended = (outcome: BatchOutcome) => {
      log("info", "batch", {
        centroids: [...new Set(batch.sequences.map((sequence) => centroidLabel(batch, sequence)))].join(" "),
        sequences: batch.sequences.length,
        ms: Math.round(now() - startedMs),
        ...outcome,
      });
    };
    const body = frameStream(engine, batch, ended, (frame) => doubtUnreadable(frame, batch, parts));
    metrics.batchAccepted(batch);
    return context.body(body, 200, {
      "content-type": "application/x-ndjson",
      "cache-control": "no-store",
      ...(numerics && { [numericsHeader]: numerics }),
    });
  });

  app.post("/v1/cancellations", async (context) => {
    const { ids } = await readBody(context, cancelRequestSchema);
    return context.json({ cancelled: sets.cancel(ids) });
  });

  /** Always live, because the supervisor restarts an engine that fails or hangs. */
  app.get("/healthz", (context) => context.json({ status: "ok" }));

  app.get("/readyz", (context) => {
    const { manifest, manifestHash, numerics } = sets.requireServing();
    const { name: model, servedAs } = manifest.model;
    const diskFault = adapters.store.disk.fault ?? memories.store.disk.fault;
    // The answer is public, and the text of a failed self-test may name folders.
    const { name: device, adapter, driver, selfTest } = parts.device;
    const found = selfTest === "refused" ? "the backend's log says why" : parts.device.found;
    const readiness: Readiness = {
      ...{ status: "ready", model, servedAs, manifestHash, manifests: sets.serving, numerics, diskFault },
      device: { name: device, adapter, driver, selfTest, found },
    };
    return context.json(readiness);
  });

  app.get("/metrics", async (context) =>
    context.text(await metrics.text(), 200, { "content-type": metrics.contentType }),
  );

  const routes = app.routes.filter(({ method, path }) => method !== "ALL" && !path.endsWith("*"));
  for (const [path, ofPath] of Map.groupBy(routes, (route) => route.path)) {
    const methods = ofPath.map(({ method }) => method).join(", ");
    app.all(path, (context) => {
      context.header("allow", methods);
      throw new ServiceError("method_not_allowed", `${path} takes ${methods}, not ${context.req.method}.`);
    });
  }
  app.notFound((context) => answerError(context, new ServiceError("not_found", `There is no ${context.req.path}.`)));
  app.onError((thrown, context) => {
    const error = toServiceError(thrown);
    const fields = { path: context.req.path, kind: error.kind, message: thrown.message };
    if (error.kind === "internal") log("error", "request_failed", { ...fields, stack: thrown.stack ?? null });
    else log("warn", "request_refused", fields);
    return answerError(context, error);
  });
  return app;
}

/** If a frame reports an unreadable file, the batch's files are checked before their next use. */
function doubtUnreadable(frame: Frame, batch: BatchRequest, { adapters, memories }: AppParts): void {
  if (frame.type !== "error") return;
  const [{ tenant }] = batch.sequences;
  if (frame.kind === "adapter_not_found") for (const hash of ownAdaptersOf(batch)) adapters.store.doubt(tenant, hash);
  if (frame.kind !== "memory_not_found") return;
  for (const { tenant, hash } of memoriesByTenant(batch)) memories.store.doubt(tenant, hash);
}

const requireJson: MiddlewareHandler = async (context, next) => {
  const type = context.req.header("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw new ServiceError("unsupported_media_type", `The content type must be application/json, not "${type}".`);
  }
  await next();
};

const limitBody: MiddlewareHandler = (context, next) => {
  const maxSize = context.req.path.startsWith("/v1/memories/") ? limits.documentBodyBytes : batchBodyBytes;
  const onError = () => {
    throw new ServiceError("body_too_large", `The body has more than ${maxSize} bytes.`);
  };
  return bodyLimit({ maxSize, onError })(context, next);
};

function answerError(context: Context, error: ServiceError): Response {
  if (error.retryAfterSeconds !== null) context.header("retry-after", String(error.retryAfterSeconds));
  return context.json(envelopeOf(error), statusOf(error.kind) as ContentfulStatusCode);
}
