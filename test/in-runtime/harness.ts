/** The app inside workerd, with the tiny model and the real cells. */

import { env } from "cloudflare:workers";
import { AnswerBodies } from "../../edge/answer/answer-body.ts";
import { type CompletionWriterParts, writeCompletion } from "../../edge/answer/completion-writer.ts";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import { paced } from "../../edge/api/paced.ts";
import { createApp } from "../../edge/app.ts";
import { heldSet } from "../../edge/artifacts/artifacts.ts";
import type { CellRequest } from "../../edge/cell/cell-request.ts";
import { type Cells, createCells } from "../../edge/cell/resumable-answer.ts";
import { BackendClient, type ClientLimits } from "../../edge/dispatch/client.ts";
import { Dispatcher } from "../../edge/dispatch/dispatcher.ts";
import { createRouting, readinessOf } from "../../edge/dispatch/routing.ts";
import { objectNamed } from "../../edge/platform/objects.ts";
import { createAdmissions } from "../../edge/tenants/admission.ts";
import { BodyReads } from "../../edge/tenants/body-reads.ts";
import type { Consumption } from "../../edge/tenants/consumption.ts";
import { KeyRecords } from "../../edge/tenants/key-records.ts";
import { type Access, createKeyStore } from "../../edge/tenants/keys.ts";
import { createRecords } from "../../edge/tenants/records.ts";
import { workerRecorder } from "../../edge/tenants/settlements.ts";
import { createTenantAdapters } from "../../edge/tenants/tenant-adapters.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { plans, scopes } from "../../shared/contracts/tenants.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Attributes, Span } from "../../shared/observability/otlp.ts";
import { backendUrl } from "./backend.ts";
import { edgeArtifacts } from "./model.ts";
import { cellNamed, cellsPerRegion } from "./objects.ts";

export const key = "sk-chameleon-local";
export const adminKey = "sk-admin-0123456789abcdef0123456789abcdef";
const keyHash = "5b93e6a958772de0f808e4b81e411b4d0d33fac7bc164101f40502f0f6afcfb9";

/** Access with every scope and without limits; `change` overrides fields. */
export const accessWith = (change: Partial<Access> = {}): Access => ({
  ...{ tenant: "local", keyId: "k", scopes: [...scopes], limits: plans.unlimited, memoryTokens: null, fileBytes: null },
  ...{ origins: [], ...change },
});

/** Cells that compute answers in the Worker itself. `parts` replace parts of the answer's writer. */
export function cellsWith(limits: Partial<ClientLimits>, parts: Partial<CompletionWriterParts> = {}): Cells {
  const ignore = () => {};
  const routing = createRouting({
    addresses: [{ url: backendUrl, region: null }],
    clientOf: ({ url }) => new BackendClient(url, { limits }),
    region: null,
  });
  const dispatcher = new Dispatcher({
    routing: () => routing,
    observe: ignore,
    now: () => Date.now(),
    after(ms, work) {
      const timer = setTimeout(work, ms);
      return () => clearTimeout(timer);
    },
    keepAlive: (work) => void work,
  });
  return async (request, _, signal) => {
    const { tokenizer } = await edgeArtifacts();
    const admission = { request: request.admitted, renew: ignore, settle: async () => undefined };
    const submit: CompletionWriterParts["submit"] = (batch, receiver) => dispatcher.submit(batch, receiver);
    const bodies = new AnswerBodies();
    const now = () => Date.now();
    const writer = { tokenizer, submit, bodies, admission, signal, now, log: ignore, ...parts };
    const response = await writeCompletion(request, writer);
    return { response, completed: null };
  };
}

/** Request ids are unique in a file, because its apps share ledgers, which count each id once. */
let ids = 0;

/** `authorization` is sent with each request that has no such header. */
export function testApp(overrides: Partial<Dependencies> = {}, authorization = `Bearer ${key}`) {
  const logged: string[] = [];
  const lost: string[] = [];
  const log: Dependencies["log"] = (_, error) => void logged.push(`${error.kind}: ${error.message}`);
  /** [tenant, ...consumption] */
  const reported: [string, ...Consumption[]][] = [];
  const works: Promise<unknown>[] = [];
  const now = overrides.now ?? (() => Date.now());
  const keys = createKeyStore(
    [{ hash: keyHash, tenant: "local" }],
    createRecords(env.TENANTS, now, (read) => void works.push(read)),
    now,
    undefined,
    {},
    adminKey,
  );
  const hono = createApp({
    artifacts: edgeArtifacts,
    artifactsOf: async (hash) => heldSet(hash),
    keys,
    requireAdmin: keys.requireAdmin,
    keyRecords: new KeyRecords(env.TENANTS, now, () => crypto.getRandomValues(new Uint8Array(32))),
    artifactBucket: env.ARTIFACTS,
    bodyReads: new BodyReads(),
    documentReads: new BodyReads(limits.documentBodyBytes),
    bodies: new AnswerBodies({ ofRequests: true }),
    beginAdmission: createAdmissions({
      ledgers: env.LEDGERS,
      background: (work) => void works.push(work),
      now,
      recorder: workerRecorder(env.LEDGERS, (tenant, consumed) => void reported.push([tenant, ...consumed])),
      log,
    }),
    usage: (tenant, from, to) => objectNamed(env.LEDGERS, tenant).usage(from, to),
    eraseUse: (tenant) => objectNamed(env.LEDGERS, tenant).erase(),
    adapters: createTenantAdapters({
      stores: env.ADAPTERS,
      clients: () => [new BackendClient(backendUrl)],
      now,
      background: (work) => void works.push(work),
    }),
    wakeCell: () => undefined,
    cells: createCells({
      namespace: cellNamed,
      cellsPerRegion,
      now,
      lost: (_, cause) => void lost.push(String(cause)),
    }),
    readiness: () => readinessOf([new BackendClient(backendUrl)]),
    hasContainers: false,
    asset: async (path) => {
      if (path.startsWith("/docs/site/")) throw new ServiceError("not_found", `${path} is no part of this deployment.`);
      return new Response(path);
    },
    background: (work) => void works.push(work),
    now,
    tracing: { sampleRatio: 0, ended: () => undefined, logRequest: () => undefined },
    newId: () => (ids++).toString(16).padStart(32, "0"),
    randomSeed: () => 7,
    version: null,
    log,
    heartbeatMs: 500,
    ...overrides,
  });
  /** A key's requests wait if they come in a burst, as in the Worker. */
  const fetch = paced((request, arrival) => hono.fetch(request, arrival), now);
  const app = {
    fetch,
    request: (url: string, init?: RequestInit) => fetch(new Request(url, init)),
    routes: hono.routes,
    router: hono.router,
  };
  const request = (path: string, init: RequestInit = {}) => {
    const headers = new Headers({ authorization: path.startsWith("/admin") ? `Bearer ${adminKey}` : authorization });
    for (const [name, value] of new Headers(init.headers)) headers.set(name, value);
    return app.request(`http://edge${path}`, { ...init, headers });
  };
  const post = (path: string, content: unknown, init: RequestInit = {}) => {
    const body = typeof content === "string" ? content : JSON.stringify(content);
    // A Request has no content-length by default, as a client's request does.
    const length = String(new TextEncoder().encode(body).length);
    const headers = { "content-type": "application/json", "content-length": length };
    return request(path, { method: "POST", body, ...init, headers: { ...headers, ...(init.headers as object) } });
  };
  const complete = (body: object, init: RequestInit = {}) => post("/v1/completions", body, init);
  const settled = () => Promise.all(works);
  return { app, request, post, complete, logged, lost, reported, settled };
}

export function recordedTracing(sampleRatio = 0) {
  const [lines, spans]: [Attributes[], Span[]] = [[], []];
  const ended = (span: Span) => void spans.push(span);
  return { lines, spans, tracing: { sampleRatio, ended, logRequest: (fields: Attributes) => void lines.push(fields) } };
}

/** Stands in for ledgers: admits every request, and records settlements. `admission` is for an answer's writer. */
export function recordedAdmissions(isLimited = false) {
  const settled: (readonly Consumption[])[] = [];
  const reserved = (requestId: string, tenant: string) => ({
    request: { requestId, tenant, beganMs: 0, isLimited },
    renew: () => undefined,
    settle: async (consumed: readonly Consumption[]) => void settled.push(consumed),
  });
  const beginAdmission: Dependencies["beginAdmission"] = ({ requestId, access: { tenant } }) => ({
    claim: async () => ({ createdMs: 0 }),
    admit: async () => undefined,
    reserve: async () => reserved(requestId, tenant),
    end: async () => undefined,
  });
  return { settled, beginAdmission, admission: reserved("r", "local") };
}

export function unreadBody() {
  const read = { times: 0, body: new ReadableStream({ pull: () => void read.times++ }, { highWaterMark: 0 }) };
  return read;
}

export async function messageToCell(body: object): Promise<CellRequest> {
  const messages: CellRequest[] = [];
  const cells: Cells = async (request) => {
    messages.push(request);
    return { response: new Response("{}"), completed: null };
  };
  await testApp({ cells }).complete(body);
  return messages[0];
}
