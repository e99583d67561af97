/**
 * The Durable Object around a BatchClient. Every request for the centroids of one cell, worldwide, is batched and answered
 * here. It stores nothing and has no timer except for open bodies, so an idle one costs nothing. The Worker calls it
 * through `createCells`.
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
import { BatchClient, type Receiver, type Submission } from "../batching/batch-client.ts";
import { AnswerBodies } from "../completions/answer-body.ts";
import { type CellRequest, type Cells, interrupted } from "../completions/cell-request.ts";
import { type CompletionWriterParts, writeCompletion } from "../completions/completion-writer.ts";
import { readConfig } from "../config.ts";
import { EdgeMetrics } from "../observability/edge-metrics.ts";
import { logFailure, usageReport } from "../observability/log.ts";
import { type Admission, admissionOf } from "../tenants/admission.ts";
import { GatheredUse } from "../tenants/gathered-use.ts";
import { type ReportUse, UsageEvents } from "../tenants/usage-events.ts";
import { refusalOf, refusalResponse } from "./refusal.ts";

const orderUrl = "https://shard/order";
const framesUrl = "https://shard/frames";
/**
 * Maximum bytes of frames that wait for another cell, per micro-batch. That cell reads them as they come; all that is
 * held counts in `objectBodyBytes`, too.
 */
const shardFramesBytes = 8 * 2 ** 20;
const shardName = (index: number) => `shard-${index}`;
const now = () => Date.now();

export class Cell extends DurableObject<Env> {
  readonly batchClient: BatchClient;
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
    this.batchClient = new BatchClient({
      openBatch,
      cancel: (ids) => backends.cancel(ids),
      now,
      // Metrics are sent when a micro-batch ends: the object has no timer for them.
      keepAlive: (work) => keepAlive(work.then(() => this.#metrics.report())),
      batchSent: (waitsMs) => this.#metrics.batchSent(waitsMs),
    });
  }

  /** Called only by the Worker and other cells. */
  override async fetch(request: Request): Promise<Response> {
    try {
      const isOrder = request.url === orderUrl;
      return isOrder
        ? await this.#answer(await request.json<CellRequest>(), request.signal)
        : this.#frames(await request.json<BatchRequest>(), request.signal);
    } catch (thrown) {
      return refusalResponse(toServiceError(thrown));
    }
  }

  /** Answers a request whose first batch is of this cell; frames of its other batches come from their cells. */
  async #answer(cellRequest: CellRequest, signal: AbortSignal): Promise<Response> {
    const { admitted, plan, places } = cellRequest;
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
      shardOf(place) === own
        ? this.batchClient.submit(batch, receiver)
        : this.#submitTo(shardOf(place), batch, receiver);
    return writeCompletion(cellRequest, { tokenizer, submit, bodies: this.bodies, admission, signal, now, log });
  }

  /** Submits a batch to another cell. */
  #submitTo(cell: number, batch: BatchRequest, { accepted, receive }: Receiver): Submission {
    const abort = new AbortController();
    const stub = this.env.CELLS.getByName(shardName(cell));
    const carry = async () => {
      const response = await ask(stub, framesUrl, batch, abort.signal);
      const ids = batch.sequences.map(({ id }) => id);
      // The other cell has only queued them: a sequence is accepted when its first frame arrives.
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

  /** Usually cached in this isolate; otherwise concurrent requests share one load. */
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

  /** Streams NDJSON frames to another cell. If that cell stops reading, the stream breaks off and it reports errors. */
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
      submission = this.batchClient.submit(batch, {
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

/** Sends each request to the cell of its first batch. */
export function createCells(cells: DurableObjectNamespace, shardCount: number): Cells {
  return async (cellRequest, signal) => {
    const stub = cells.getByName(shardName(cellRequest.places[0] % shardCount));
    return ask(stub, orderUrl, cellRequest, signal);
  };
}

/** Rejects with the ServiceError of a refusal, or with another Error when the cell is lost. */
async function ask(stub: DurableObjectStub, url: string, body: unknown, signal: AbortSignal): Promise<Response> {
  const response = await stub.fetch(url, { method: "POST", body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusalOf(response);
  return response;
}
