/** A Durable Object that answers requests of one region. An idle cell costs nothing, because it has a timer only while bodies are open. */
import { DurableObject } from "cloudflare:workers";
import { createSigner } from "../../shared/contracts/call-signature.ts";
import { type Jurisdiction, jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { AnswerBodies } from "../answer/answer-body.ts";
import { type CompletionWriterParts, writeCompletion } from "../answer/completion-writer.ts";
import { type Artifacts, artifactsMissing } from "../artifacts/artifacts.ts";
import { deployedSet, PlannedSets, publishedSets } from "../artifacts/deployed.ts";
import { configured, readConfig } from "../config.ts";
import { type AdapterFiles, BackendClient, type MemoryFiles } from "../dispatch/client.ts";
import { Dispatcher } from "../dispatch/dispatcher.ts";
import { createRouting, type RoutingEvent } from "../dispatch/routing.ts";
import type { Plan } from "../plan/plan.ts";
import { steadyClock } from "../platform/clock.ts";
import { EdgeMetrics } from "../platform/edge-metrics.ts";
import { logFailure } from "../platform/log.ts";
import { objectNamed } from "../platform/objects.ts";
import { type Admission, admissionOf, hasEnded } from "../tenants/admission.ts";
import type { ReportUse } from "../tenants/consumption.ts";
import { memoryBody } from "../tenants/memory-documents.ts";
import { Settlements, usageReport } from "../tenants/settlements.ts";
import { regionOfCell } from "./cell-names.ts";
import { type CellRequest, readCellRequest, refusalResponse } from "./cell-request.ts";

const now = () => Date.now();

export class Cell extends DurableObject<Env> {
  readonly dispatcher: Dispatcher;
  report: ReportUse;
  readonly #metrics: EdgeMetrics;
  readonly settlements: Settlements;
  readonly bodies = new AnswerBodies();
  readonly #sets: PlannedSets;
  readonly #jurisdiction: Jurisdiction | null;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#jurisdiction = jurisdictionOf(state.id.name ?? "");
    const fileOf: AdapterFiles = (tenant, hash, copy) => objectNamed(env.ADAPTERS, tenant).file(hash, copy);
    const memoryOf: MemoryFiles = async (tenant, hash, manifestHash, copy) => {
      const texts = await objectNamed(env.ADAPTERS, tenant).texts(hash, copy);
      return texts && memoryBody(manifestHash, texts);
    };
    const keepAlive = (work: Promise<void>) => state.waitUntil(work);
    const steadyNow = steadyClock(now);
    const source = publishedSets(env, { cache: caches.default, background: keepAlive });
    this.#sets = new PlannedSets(source, () => deployedSet(env));
    this.report = usageReport(env);
    this.settlements = new Settlements({
      ...{ ledgers: env.LEDGERS, storage: state.storage, now },
      newId: () => crypto.randomUUID(),
      report: (tenant, consumed) => this.report(tenant, consumed),
    });
    this.#metrics = new EdgeMetrics(readConfig(env).otlp, now);
    const routing = configured(env, ({ backendSecrets, backends: addresses, backendFetch }) => {
      const parts = { fileOf, memoryOf, sign: createSigner(backendSecrets, now), fetch: backendFetch };
      return createRouting({
        addresses,
        clientOf: ({ url }) => new BackendClient(url, parts),
        region: regionOfCell(state.id.name),
        jurisdiction: this.#jurisdiction,
      });
    });
    this.dispatcher = new Dispatcher({
      routing,
      observe: (event) => {
        this.#metrics.routed(event);
        logRouting(event);
      },
      now: steadyNow,
      after: (ms, work) => void setTimeout(work, ms),
      // Metrics are sent at the end of a call, because the object has no timer for them.
      keepAlive: (work) => keepAlive(work.then(() => this.#metrics.report())),
      batchSent: (waitsMs) => this.#metrics.batchSent(waitsMs),
    });
  }

  override async alarm(): Promise<void> {
    await this.settlements.retry();
  }

  /** Called only by the Worker: POST answers a request, GET loads artifacts. */
  override async fetch(request: Request): Promise<Response> {
    try {
      if (request.method === "GET") {
        await this.#sets.prepare();
        return new Response(null, { status: 204 });
      }
      return await this.#answer(readCellRequest(await request.json()), request.signal);
    } catch (thrown) {
      return refusalResponse(toServiceError(thrown));
    }
  }

  async #answer(request: CellRequest, signal: AbortSignal): Promise<Response> {
    const { admitted, plan } = request;
    if (jurisdictionOf(admitted.tenant) !== this.#jurisdiction) {
      throw new Error(`a request of ${admitted.tenant} reached the cell ${this.ctx.id.name}`);
    }
    const log = (error: ServiceError) => logFailure(admitted.requestId, error);
    const background = (work: Promise<void>) => this.ctx.waitUntil(work);
    const [ledgers, recorder] = [this.env.LEDGERS, this.settlements];
    const admission = admissionOf(admitted, { ledgers, recorder, background, now, log: logFailure });
    if (request.isResumed && (await hasEnded(admitted, ledgers))) {
      throw new ServiceError("cancelled", "The request has ended: nothing of it was read for too long.");
    }
    const { tokenizer } = await this.#artifactsOf(plan, admission);
    this.dispatcher.checkRoom(admitted.tenant, plan.choices.length);
    const submit: CompletionWriterParts["submit"] = (batch, receiver) => this.dispatcher.submit(batch, receiver);
    const steadyNow = steadyClock(now);
    return writeCompletion(request, { tokenizer, submit, bodies: this.bodies, admission, signal, now: steadyNow, log });
  }

  async #artifactsOf({ manifestHash, edgeFiles }: Plan, admission: Admission): Promise<Artifacts> {
    try {
      return await this.#sets.of(manifestHash, edgeFiles);
    } catch (cause) {
      void admission.settle([]);
      throw artifactsMissing(cause);
    }
  }
}

function logRouting({ failure, ...event }: RoutingEvent): void {
  const why = failure && { message: failure.message, cause: String(failure.cause) };
  console.warn(JSON.stringify({ ...event, ...why }));
}
