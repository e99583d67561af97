/**
 * The Durable Object around a Relay. Every request for the centroids of one shard, worldwide, is batched and answered
 * here. It stores nothing and has no timer except for open bodies, so an idle one costs nothing. The Worker calls it
 * through `createShardOrders`.
 */
import { DurableObject } from "cloudflare:workers";
import { type BatchRequest, errorFrame } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { type Artifacts, artifactsMissing } from "../assign/artifacts.ts";
import { setOf } from "../assign/deployed.ts";
import { Backends } from "../backend/backends.ts";
import { createSigner } from "../backend/call-signer.ts";
import { type AdapterFiles, BackendClient } from "../backend/client.ts";
import { complete, isLast } from "../backend/dispatch.ts";
import { checkedFramesOf } from "../backend/frames.ts";
import { Gate } from "../backend/gate.ts";
import { awaitingCalls } from "../backend/routing-limits.ts";
import type { RoutingObserver } from "../backend/routing-observer.ts";
import { AnswerBodies } from "../completions/answer-body.ts";
import { answerOrder, type CompletionWriterParts } from "../completions/completion-writer.ts";
import { interrupted, type Order, type Orders } from "../completions/order.ts";
import { readConfig } from "../config.ts";
import { EdgeMetrics } from "../observability/edge-metrics.ts";
import { logFailure, usageReport } from "../observability/log.ts";
import { type Admission, admissionOf } from "../tenants/admission.ts";
import { GatheredUse } from "../tenants/gathered-use.ts";
import { type ReportUse, UsageEvents } from "../tenants/usage-events.ts";
import { refusalOf, refusalResponse } from "./refusal.ts";
import { type Receiver, Relay, type Submission } from "./relay.ts";

const orderUrl = "https://shard/order";
const framesUrl = "https://shard/frames";
/**
 * Maximum bytes of frames that wait for another shard, per micro-batch. That shard reads them as they come; all that is
 * held counts in `objectBodyBytes`, too.
 */
const shardFramesBytes = 8 * 2 ** 20;
const shardName = (index: number) => `shard-${index}`;
const now = () => Date.now();

export class Shard extends DurableObject<Env> {
  readonly relay: Relay;
  /** Reports usage; tests replace it. */
  report: ReportUse;
  readonly usage: UsageEvents;
  readonly #metrics: EdgeMetrics;
  readonly #shardCount: number;
  readonly #gathered: GatheredUse;
  readonly bodies = new AnswerBodies();
  /** Artifacts that are being loaded, by manifest hash. */
  readonly #loading = new Map<string, Promise<Artifacts>>();

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    const gate = new Gate(awaitingCalls);
    const fileOf: AdapterFiles = (tenant, hash) => env.ADAPTERS.getByName(tenant).file(hash);
    const keepAlive = (work: Promise<void>) => state.waitUntil(work);
    const config = readConfig(env);
    this.report = usageReport(env);
    this.usage = new UsageEvents((tenant, consumed) => this.report(tenant, consumed), keepAlive);
    this.#gathered = new GatheredUse(env.LEDGERS);
    this.#shardCount = config.shardCount;
    this.#metrics = new EdgeMetrics(config.otlp, now);
    const newNonce = () => crypto.randomUUID().replaceAll("-", "");
    const sign = createSigner(config.backendSecrets, { now, newNonce });
    const parts = { gate, fileOf, sign, fetch: config.backendFetch };
    const backends = new Backends({
      addresses: config.backends,
      clientOf: ({ url }) => new BackendClient(url, parts),
      region: null,
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
      // Metrics are sent when a micro-batch ends: the object has no timer for them.
      keepAlive: (work) => keepAlive(work.then(() => this.#metrics.report())),
      batchLeft: (waitsMs) => this.#metrics.batchLeft(waitsMs),
    });
  }

  /** Called only by the Worker and other shards. */
  override async fetch(request: Request): Promise<Response> {
    try {
      const isOrder = request.url === orderUrl;
      return isOrder
        ? await this.#answer(await request.json<Order>(), request.signal)
        : this.#frames(await request.json<BatchRequest>(), request.signal);
    } catch (thrown) {
      return refusalResponse(toServiceError(thrown));
    }
  }

  /** Answers an order whose first batch is of this shard; frames of its other batches come from their shards. */
  async #answer(order: Order, signal: AbortSignal): Promise<Response> {
    const { admitted, plan, places } = order;
    const log = (error: ServiceError) => logFailure(admitted.requestId, error);
    const background = (work: Promise<void>) => this.ctx.waitUntil(work);
    const admission = admissionOf(admitted, {
      ledgers: this.env.LEDGERS,
      gathered: this.#gathered,
      background,
      now,
      report: (tenant, consumed) => this.usage.add(tenant, consumed),
      log: logFailure,
    });
    const { tokenizer } = await this.#artifactsOf(plan.manifestHash, admission);
    const shardOf = (place: number) => place % this.#shardCount;
    const own = shardOf(places[0]);
    const submit: CompletionWriterParts["submit"] = (batch, place, receiver) =>
      shardOf(place) === own ? this.relay.submit(batch, receiver) : this.#submitTo(shardOf(place), batch, receiver);
    return answerOrder(order, { tokenizer, submit, bodies: this.bodies, admission, signal, now, log });
  }

  /** Submits a batch to another shard. */
  #submitTo(shard: number, batch: BatchRequest, { accepted, receive }: Receiver): Submission {
    const abort = new AbortController();
    const stub = this.env.SHARDS.getByName(shardName(shard));
    const carry = async () => {
      const response = await ask(stub, framesUrl, batch, abort.signal);
      const ids = batch.sequences.map(({ id }) => id);
      // The other shard has only queued them: a sequence is accepted when its first frame arrives.
      const unaccepted = new Set(ids);
      for await (const frames of complete(checkedFramesOf(response.body!), ids, interrupted)) {
        for (const { id, type } of frames) if (unaccepted.delete(id) && type !== "error") accepted();
        receive(frames);
      }
    };
    const carried = carry().catch((thrown) => {
      if (abort.signal.aborted) return;
      const error = thrown instanceof ServiceError ? thrown : interrupted(thrown);
      receive(batch.sequences.map(({ id }) => errorFrame(id, error)));
    });
    this.ctx.waitUntil(carried);
    return { cancel: () => abort.abort() };
  }

  /** Usually cached in this isolate; otherwise concurrent orders share one load. */
  async #artifactsOf(manifestHash: string, admission: Admission): Promise<Artifacts> {
    const loading = this.#loading.get(manifestHash) ?? setOf(manifestHash, this.env);
    this.#loading.set(manifestHash, loading);
    try {
      return await loading;
    } catch (cause) {
      admission.settle([]);
      throw artifactsMissing(cause);
    } finally {
      this.#loading.delete(manifestHash);
    }
  }

  /** Streams NDJSON frames to another shard. If that shard stops reading, the stream breaks off and it reports errors. */
  #frames(batch: BatchRequest, signal: AbortSignal): Response {
    let open = batch.sequences.length;
    let submission: Submission | null = null;
    const cancel = () => submission?.cancel();
    const body = this.bodies.open(
      { tenant: batch.sequences[0].tenant, maximumBytes: shardFramesBytes, heartbeat: null },
      {
        heartbeatDue: () => undefined,
        overflowed() {
          cancel();
          body.breakOff();
        },
        // A failed write detects a disconnect as well as `signal` does.
        ended: (isGone) => isGone && cancel(),
      },
    );
    try {
      submission = this.relay.submit(batch, {
        accepted: () => undefined,
        receive(frames) {
          const lines = frames.map(frameLine).join("");
          open -= frames.filter(isLast).length;
          if (open === 0) body.close(lines);
          else body.write(lines);
        },
      });
    } catch (refused) {
      body.breakOff();
      throw refused;
    }
    signal.addEventListener("abort", () => {
      cancel();
      body.breakOff();
    });
    return new Response(body.readable, { headers: { "content-type": "application/x-ndjson" } });
  }
}

const say = (event: string, fields: object) => console.warn(JSON.stringify({ event, ...fields }));
const routingLog: RoutingObserver = {
  retried: (backend, sequences) => say("retried", { backend, sequences }),
  resumed: (backend, sequences) => say("resumed", { backend, sequences }),
  notResumed: (backend, sequences) => say("not_resumed", { backend, sequences }),
  hedged: (backend, sequences) => say("hedged", { backend, sequences }),
  ejected: (backend) => say("ejected", { backend }),
  returned: (backend) => say("returned", { backend }),
  failed: (backend, why) => say("call_failed", { backend, message: why.message, cause: String(why.cause) }),
};

/** Sends each order to the shard of its first batch. */
export function createShardOrders(shards: DurableObjectNamespace, shardCount: number): Orders {
  return async (order, signal) => {
    const stub = shards.getByName(shardName(order.places[0] % shardCount));
    return ask(stub, orderUrl, order, signal);
  };
}

/** Rejects with the ServiceError of a refusal, or with another Error when the shard is lost. */
async function ask(stub: DurableObjectStub, url: string, body: unknown, signal: AbortSignal): Promise<Response> {
  const response = await stub.fetch(url, { method: "POST", body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusalOf(response);
  return response;
}
