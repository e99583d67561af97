/**
 * The Durable Object around a Relay: every request for the centroids of one shard, from all over the world, meets
 * here. It stores nothing and sets no timer of its own, so an idle one costs nothing. `createShardDispatch` is the way in.
 */
import { DurableObject } from "cloudflare:workers";
import type { BatchRequest } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { envelopeOf, ServiceError, statusOf, toServiceError } from "../../shared/errors.ts";
import type { Artifacts } from "../assign/artifacts.ts";
import { Backends } from "../backend/backends.ts";
import { createSigner } from "../backend/call-signer.ts";
import { type AdapterFiles, BackendClient, openFrames } from "../backend/client.ts";
import { type Dispatch, isLast } from "../backend/dispatch.ts";
import { Gate } from "../backend/gate.ts";
import { awaitingCalls } from "../backend/routing-limits.ts";
import type { RoutingObserver } from "../backend/routing-observer.ts";
import { readConfig } from "../config.ts";
import { EdgeMetrics } from "../observability/edge-metrics.ts";
import { Relay } from "./relay.ts";

export class Shard extends DurableObject<Env> {
  readonly relay: Relay;
  readonly #metrics: EdgeMetrics;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    const gate = new Gate(awaitingCalls);
    const fileOf: AdapterFiles = (tenant, hash) => env.ADAPTERS.getByName(tenant).file(hash);
    const now = () => Date.now();
    const keepAlive = (work: Promise<void>) => state.waitUntil(work);
    const config = readConfig(env);
    this.#metrics = new EdgeMetrics(config.otlp, now);
    const newNonce = () => crypto.randomUUID().replaceAll("-", "");
    const sign = createSigner(config.backendSecrets, { now, newNonce });
    const parts = { gate, fileOf, sign, fetch: config.backendFetch };
    const backends = new Backends({
      clients: new Map(config.backendUrls.map((url) => [url, new BackendClient(url, parts)])),
      observer: this.#metrics.counting(routingLog),
      now,
      after(ms, work) {
        const timer = setTimeout(work, ms);
        return () => clearTimeout(timer);
      },
      keepAlive,
    });
    const { openBatch } = backends;
    this.relay = new Relay({
      openBatch,
      cancel: (ids) => backends.cancel(ids),
      now,
      keepAlive,
      batchLeft: (waitsMs) => this.#metrics.batchLeft(waitsMs),
    });
  }

  /** A BatchRequest in, NDJSON frames out; reached by our own Worker only. */
  override async fetch(request: Request): Promise<Response> {
    const batch = await request.json<BatchRequest>();
    try {
      return new Response(this.#frames(batch, request.signal), { headers: { "content-type": "application/x-ndjson" } });
    } catch (thrown) {
      const error = toServiceError(thrown);
      const headers = { "retry-after": String(error.retryAfterSeconds ?? 0) };
      return Response.json(envelopeOf(error), { status: statusOf(error.kind), headers });
    }
  }

  /** What waits here is bounded: a sequence has no more frames than the context has tokens. */
  #frames(batch: BatchRequest, signal: AbortSignal): ReadableStream<Uint8Array> {
    const { readable, writable } = new IdentityTransformStream();
    const writer = writable.getWriter();
    const encoder = new TextEncoder();
    let open = batch.sequences.length;
    const submission = this.relay.submit(batch, (frame) => {
      // A failed write means that the reader is gone, which `closed` reports.
      writer.write(encoder.encode(frameLine(frame))).catch(() => undefined);
      if (!isLast(frame) || --open > 0) return;
      writer.close().catch(() => undefined);
      this.ctx.waitUntil(this.#metrics.report());
    });
    // A failed write tells it, too, where there is one.
    signal.addEventListener("abort", () => submission.cancel());
    writer.closed.catch(() => submission.cancel());
    return readable;
  }
}

const say = (event: string, fields: object) => console.warn(JSON.stringify({ event, ...fields }));
const routingLog: RoutingObserver = {
  retried: (backend, sequences) => say("retried", { backend, sequences }),
  resumed: (backend, sequences) => say("resumed", { backend, sequences }),
  hedged: (backend, sequences) => say("hedged", { backend, sequences }),
  ejected: (backend) => say("ejected", { backend }),
  returned: (backend) => say("returned", { backend }),
  failed: (backend, why) => say("call_failed", { backend, message: why.message, cause: String(why.cause) }),
};

/** Sends each micro-batch to its centroid's shard; the base has a place behind the centroids, tenants' adapters any. */
export function createShardDispatch(
  shards: DurableObjectNamespace,
  shardCount: number,
  artifacts: () => Promise<Artifacts>,
): Dispatch {
  return async (batch, signal) => {
    const { manifest } = await artifacts();
    const index = manifest.centroids.findIndex(({ id }) => id === batch.centroidId);
    const own = batch.adapterHash && Number.parseInt(batch.adapterHash.slice(0, 8), 16);
    const place = own || (index < 0 ? manifest.centroids.length : index);
    const stub = shards.getByName(`shard-${place % shardCount}`);
    let response: Response;
    try {
      response = await stub.fetch("https://shard/", { method: "POST", body: JSON.stringify(batch), signal });
    } catch (cause) {
      throw new ServiceError("backend_unavailable", "The request was interrupted at the edge; try again.", {
        retryAfterSeconds: 1,
        cause,
      });
    }
    return openFrames(response, batch);
  };
}
