/** The app inside workerd, with the tiny model, the real cells, and a backend that a test scripts. */

import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { delay, HttpResponse, http } from "msw";
import { expect, onTestFinished, vi } from "vitest";
import { AnswerBodies } from "../../edge/answer/answer-body.ts";
import { type CompletionWriterParts, writeCompletion } from "../../edge/answer/completion-writer.ts";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import { paced } from "../../edge/api/paced.ts";
import { createApp } from "../../edge/app.ts";
import { type Artifacts, heldSet, loadArtifacts } from "../../edge/artifacts/artifacts.ts";
import type { Cell } from "../../edge/cell/cell.ts";
import { cellsOf } from "../../edge/cell/cell-names.ts";
import type { CellRequest } from "../../edge/cell/cell-request.ts";
import { type Cells, createCells } from "../../edge/cell/resumable-answer.ts";
import { BackendClient, type ClientLimits } from "../../edge/dispatch/client.ts";
import { Dispatcher } from "../../edge/dispatch/dispatcher.ts";
import { createRouting, readinessOf } from "../../edge/dispatch/routing.ts";
import { objectNamed } from "../../edge/platform/objects.ts";
import { defaultRegion, type Region } from "../../edge/platform/region.ts";
import { createAdmissions } from "../../edge/tenants/admission.ts";
import { BodyReads } from "../../edge/tenants/body-reads.ts";
import type { Consumption } from "../../edge/tenants/consumption.ts";
import { KeyRecords } from "../../edge/tenants/key-records.ts";
import { type Access, createKeyStore } from "../../edge/tenants/keys.ts";
import type { Ledger } from "../../edge/tenants/ledger.ts";
import { createRecords } from "../../edge/tenants/records.ts";
import { workerRecorder } from "../../edge/tenants/settlements.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";
import { createTenantAdapters } from "../../edge/tenants/tenant-adapters.ts";
import { pointerName, switchedTo } from "../../shared/artifacts/bucket.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import {
  type BatchRequest,
  batchRequestSchema,
  type Frame,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { plans, scopes } from "../../shared/contracts/tenants.ts";
import { type ErrorEnvelope, ServiceError } from "../../shared/errors.ts";
import type { Attributes, Span } from "../../shared/observability/otlp.ts";
import { edgeModelFiles } from "../support/edge-model.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { loadOnce } from "../support/load-once.ts";
import { network } from "./network.ts";

export const backendUrl = "http://127.0.0.1:8788";
export const key = "sk-chameleon-local";
export const adminKey = "sk-admin-0123456789abcdef0123456789abcdef";
const keyHash = "5b93e6a958772de0f808e4b81e411b4d0d33fac7bc164101f40502f0f6afcfb9";

/** Keys of tenants, and the headers that each tenant calls with, in order. */
export async function keysOf(...tenants: string[]) {
  const hashed = tenants.map(async (tenant) => ({
    tenant,
    hash: await sha256Hex(new TextEncoder().encode(`sk-${tenant}`)),
  }));
  const keys = createKeyStore(await Promise.all(hashed), { get: async () => null } as never, () => Date.now());
  return { keys, headers: tenants.map((tenant) => ({ authorization: `Bearer sk-${tenant}` })) };
}

/** What a key that opens everything gives access to, changed. */
export const accessWith = (change: Partial<Access> = {}): Access => ({
  ...{ tenant: "local", keyId: "k", scopes: [...scopes], limits: plans.unlimited, memoryTokens: null, fileBytes: null },
  ...{ origins: [], ...change },
});

let tenants = 0;

/** Two tenants that have nothing yet: their keys, the name of the first (`prefix-1`), and the headers that each calls with. */
export async function newTenants(prefix: string) {
  const [tenant, other] = [`${prefix}-${++tenants}`, `${prefix}-${++tenants}`];
  const { keys, headers } = await keysOf(tenant, other);
  const [mine, theirs] = headers;
  return { keys, tenant, mine, theirs };
}

export type MaybePromise<T> = T | Promise<T>;

/** The requests that the backend received. */
export interface Seen {
  batches: BatchRequest[];
  headers: Headers[];
  /** Bodies of the batches, byte for byte. */
  bytes: Uint8Array[];
  cancelled: string[];
}

/** Answers each batch with the frames of `script`: a line for each sequence in turn, each line a chunk. */
export function backendAnswers(script: (sequence: SequenceRequest, batch: BatchRequest) => Frame[]): Seen {
  return backendStreams((batch) => {
    return framesStream(inTurns(batch.sequences.map((sequence) => script(sequence, batch))));
  });
}

/** The frames of several sequences, a frame of each in turn. */
export function inTurns(rows: readonly Frame[][]): Frame[] {
  const longest = Math.max(...rows.map((row) => row.length));
  return Array.from({ length: longest }, (_, i) => rows.flatMap((row) => row.slice(i, i + 1))).flat();
}

/** Answers each batch with the stream or response that `body` returns. */
export function backendStreams(
  body: (batch: BatchRequest, signal: AbortSignal) => MaybePromise<ReadableStream<Uint8Array> | Response>,
): Seen {
  const seen: Seen = { batches: [], headers: [], bytes: [], cancelled: [] };
  network.use(
    http.post(`${backendUrl}/v1/batches`, async ({ request }) => {
      // Throws if the edge's batch breaks the contract.
      const bytes = new Uint8Array(await request.arrayBuffer());
      const batch = batchRequestSchema.parse(JSON.parse(new TextDecoder().decode(bytes)));
      seen.bytes.push(bytes);
      seen.batches.push(batch);
      seen.headers.push(request.headers);
      const made = await body(batch, request.signal);
      return made instanceof Response
        ? made
        : new HttpResponse(made, { headers: { "content-type": "application/x-ndjson" } });
    }),
    http.post(`${backendUrl}/v1/cancellations`, async ({ request }) => {
      seen.cancelled.push(...((await request.json()) as { ids: string[] }).ids);
      return new HttpResponse(null, { status: 204 });
    }),
  );
  return seen;
}

/** A backend's answer to a batch whose adapter or memory it lacks. */
export const lacks = (code: "adapter_not_found" | "memory_not_found") =>
  HttpResponse.json({ error: { message: "not here", code } }, { status: 404 });

/** A backend's answer of these frames. */
export const framesStream = (frames: readonly Frame[]) => byteStream(frames.map(frameLine));

/** A stream of the given chunks. */
export function byteStream(chunks: readonly (string | Uint8Array)[]): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const rest = [...chunks];
  return new ReadableStream({
    async pull(controller) {
      await delay(0);
      const chunk = rest.shift();
      if (chunk === undefined) controller.close();
      else controller.enqueue(typeof chunk === "string" ? encoder.encode(chunk) : chunk);
    },
  });
}

/**
 * A body whose chunks come when the test sends them. The runtime lets neither the test nor the cell await the other's streams or
 * promises, so `open` creates the stream where it is read and polls plain fields.
 */
export class LateBody {
  /** False delays `open`, as a backend does that has not accepted the call yet. */
  accepted = true;
  cancelled = false;
  readonly #chunks: string[] = [];
  #end: "close" | "fail" | null = null;

  /** `signal` is the request's. Its abort ends the body, as on a real connection. */
  async open(signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    signal.addEventListener("abort", () => {
      this.cancelled = true;
    });
    while (!this.accepted) await delay(1);
    const encoder = new TextEncoder();
    return new ReadableStream({
      pull: async (controller) => {
        while (this.#chunks.length === 0 && !this.#end && !this.cancelled) await delay(1);
        if (this.cancelled) controller.error(signal.reason);
        else if (this.#chunks.length > 0) controller.enqueue(encoder.encode(this.#chunks.shift()));
        else if (this.#end === "fail") controller.error(new TypeError("connection lost"));
        else if (this.#end === "close") controller.close();
      },
      cancel: () => {
        this.cancelled = true;
      },
    });
  }

  /** Whether everything that was sent has been read. */
  get isTaken(): boolean {
    return this.#chunks.length === 0;
  }

  send(...frames: Frame[]): void {
    this.#chunks.push(frames.map(frameLine).join(""));
  }

  end(how: "close" | "fail" = "close"): void {
    this.#end = how;
  }
}

/** Answers `calls` calls in turn, each with a body that the test fills. */
export function lateBackend(calls: number) {
  const bodies = Array.from({ length: calls }, () => new LateBody());
  const seen = backendStreams(
    (_, signal) => bodies[seen.batches.length - 1]?.open(signal) ?? new Response(null, { status: 500 }),
  );
  /** Ends every sequence of a call after one token. */
  const finish = (call: number) => {
    for (const { id } of seen.batches[call].sequences) bodies[call].send(tokenFrame(id, 0, 98), doneFrame(id));
    bodies[call].end();
  };
  return { bodies, seen, finish };
}

/** Frames of a completion that says `text`, a token for each byte: ids below 256 are bytes in the tiny model. */
export function saying(
  id: string,
  text: string | Uint8Array,
  options: { logprob?: number; finish?: "stop" | "length" } = {},
): Frame[] {
  const bytes = [...(typeof text === "string" ? new TextEncoder().encode(text) : text)];
  const tokens = bytes.map((byte, i) => {
    const { logprob } = options;
    const extra = logprob === undefined ? {} : { logprob, alternatives: [[byte, logprob] as [number, number]] };
    return { ...tokenFrame(id, i, byte), ...extra };
  });
  return [...tokens, { ...doneFrame(id), finishReason: options.finish ?? "length", completionTokens: bytes.length }];
}

/** Answers in the Worker, without a cell, under other limits. `parts` replace parts of the writer. */
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

/** Artifacts of the tiny model, changed. */
export async function edgeArtifactsWith(...change: Parameters<typeof edgeModelFiles>): Promise<Artifacts> {
  const files = await edgeModelFiles(...change);
  return loadArtifacts(async (name) => files.get(name)!);
}

/** Loads artifacts of the tiny model, changed, at the first call. */
export const artifactsWith = (...change: Parameters<typeof edgeModelFiles>) =>
  loadOnce(() => edgeArtifactsWith(...change));
/** Writes of each message the first letter of its role, its text and an end of text. */
export const turnsTemplate =
  "{% for message in messages %}{{ message.role[0] }}{{ message.content }}{{ eos_token }}{% endfor %}";

/** Artifacts of the tiny model. */
export const edgeArtifacts = artifactsWith();

/** Publishes a manifest, by default the tiny model's, to all objects. Its files must be loaded in this isolate. */
export async function publish(manifest?: string): Promise<void> {
  const pointer = switchedTo(manifest ?? (await manifestHash()), new Date(0), null);
  await env.ARTIFACTS.put(pointerName, JSON.stringify(pointer));
}

export async function manifestHash(): Promise<string> {
  return (await edgeArtifacts()).manifestHash;
}

/** Request ids are unique in a file: its apps share ledgers, which count each id once. */
let ids = 0;

/** `authorization` is sent with each request that has none of its own. */
export function testApp(overrides: Partial<Dependencies> = {}, authorization = `Bearer ${key}`) {
  const logged: string[] = [];
  /** Causes of lost cells. */
  const lost: string[] = [];
  const log: Dependencies["log"] = (_, error) => void logged.push(`${error.kind}: ${error.message}`);
  /** Use by tenant, as it is reported. */
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
    // The documents site is built separately, so the tests have none of its files.
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
  /** Each key's requests are paced, as in the Worker. */
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
    // A client sends a length; a Request made here has none unless it is set.
    const length = String(new TextEncoder().encode(body).length);
    const headers = { "content-type": "application/json", "content-length": length };
    return request(path, { method: "POST", body, ...init, headers: { ...headers, ...(init.headers as object) } });
  };
  const complete = (body: object, init: RequestInit = {}) => post("/v1/completions", body, init);
  /** Resolves when the work behind answered requests is done. */
  const settled = () => Promise.all(works);
  return { app, request, post, complete, logged, lost, reported, settled };
}

/** A part of the app that records its log lines and spans. */
export function recordedTracing(sampleRatio = 0) {
  const [lines, spans]: [Attributes[], Span[]] = [[], []];
  const ended = (span: Span) => void spans.push(span);
  return { lines, spans, tracing: { sampleRatio, ended, logRequest: (fields: Attributes) => void lines.push(fields) } };
}

/** Admissions without a ledger: of an app's requests, and one for the writer of an answer. Records what is settled. */
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

/** A body that counts how often it is read. */
export function unreadBody() {
  const read = { times: 0, body: new ReadableStream({ pull: () => void read.times++ }, { highWaterMark: 0 }) };
  return read;
}

/** A token depends on seed and index alone, as with a real backend. */
export const seededToken = ({ sampling: { seed } }: SequenceRequest, index: number) =>
  97 + ((seed! + 7 * index + index ** 2) % 26);

/** All frames of a sequence, with what it asks for. */
export function seededFrames(sequence: SequenceRequest): Frame[] {
  const { id, maxTokens, sampling, promptLogprobs, promptIds } = sequence;
  const scored = { logprob: -0.5, alternatives: [[97, -1] as [number, number]] };
  const tokens = Array.from({ length: maxTokens }, (_, i) => ({
    ...tokenFrame(id, i, seededToken(sequence, i)),
    ...(sampling.logprobs !== undefined && scored),
  }));
  const logprobs = promptIds.map((_, i) => (i === 0 ? null : -1));
  const prompt = { type: "prompt" as const, id, logprobs, alternatives: promptIds.map(() => []) };
  return [...(promptLogprobs ? [prompt] : []), ...tokens, { ...doneFrame(id), completionTokens: maxTokens }];
}

const cellsPerRegion = Number(env.CELLS_PER_REGION);
const cellNamed = (name: string, region: Region = defaultRegion) => objectNamed(env.CELLS, name, region);
export async function messageToCell(body: object): Promise<CellRequest> {
  const messages: CellRequest[] = [];
  const cells: Cells = async (request) => {
    messages.push(request);
    return { response: new Response("{}"), completed: null };
  };
  await testApp({ cells }).complete(body);
  return messages[0];
}

/** The cells of the tests' region; the first one answers its tenant. */
export const localCells = () => cellsOf("local", defaultRegion, cellsPerRegion).map((name) => cellNamed(name));
export const localCell = () => localCells()[0];
export const cellIsIdle = () => runInDurableObject(localCell(), ({ dispatcher }: Cell) => dispatcher.idle);

/** Records the use that cells report from now on. The function returned gives what came since its last call. */
export async function reportedByCells(): Promise<() => [string, ...Consumption[]][]> {
  const reported: [string, ...Consumption[]][] = [];
  for (const stub of localCells()) {
    await runInDurableObject(stub, async (cell: Cell) => {
      // Use of earlier tests is reported first, so it is not recorded.
      await vi.waitFor(() => expect(cell.settlements.idle).toBe(true));
      cell.report = (tenant, consumed) => void reported.push([tenant, ...consumed]);
    });
  }
  return () => reported.splice(0);
}

/** Settles a request of a tenant with limits, or, with an idempotency key, of a tenant without. */
export function settle(
  ledger: DurableObjectStub<Ledger>,
  requestId: string,
  consumed: Consumption[],
  idempotencyKey?: string,
): Promise<Consumption[]> {
  const request = { requestId, tenant: "", beganMs: 0, isLimited: idempotencyKey === undefined, idempotencyKey };
  return ledger.settleAll(requestId, [{ request, consumed }]);
}

/** The answer's JSON. Fails with the answer's text if its status is another one. */
export async function jsonOf<T = unknown>(answer: MaybePromise<Response>, status = 200): Promise<T> {
  const response = await answer;
  const text = await response.text();
  expect(response.status, text).toBe(status);
  return JSON.parse(text);
}

export async function errorOf(answer: MaybePromise<Response>) {
  const response = await answer;
  const { error } = await response.json<ErrorEnvelope>();
  return { ...error, status: response.status, retryAfter: response.headers.get("retry-after") };
}

interface ExpectedError extends Partial<Omit<Awaited<ReturnType<typeof errorOf>>, "type">> {
  type?: string;
  /** Parts of the message, or patterns of it. */
  mentions?: string | RegExp | readonly (string | RegExp)[];
}

/** Expects an error with these fields. */
export async function expectError(answer: MaybePromise<Response>, { mentions = [], ...fields }: ExpectedError) {
  const error = await errorOf(answer);
  expect(error, error.message).toMatchObject(fields);
  for (const part of [mentions].flat()) expect(error.message).toMatch(part);
}

/** The data of a stream's events, parsed except for [DONE]. */
export async function eventsOf<T = unknown>(answer: MaybePromise<Response>): Promise<T[]> {
  const events = (await (await answer).text()).split("\n\n");
  const data = events.filter((event) => event.startsWith("data: ")).map((event) => event.slice("data: ".length));
  return data.map((text) => (text === "[DONE]" ? text : JSON.parse(text)));
}

/** A stream's events with data as text, without their timings, which differ between runs. */
export function untimedEvents(text: string): string[] {
  const events = text.replaceAll(/"timings":\{[^}]*\}/g, '"timings":{}').split("\n\n");
  return events.filter((event) => event.startsWith("data: "));
}

/** Groups events by choice, because choices may come in any order. */
export const byChoice = (events: string[]) => Map.groupBy(events, (event) => /"index":(\d+)/.exec(event)?.[1]);

/** Changes variables of an object's environment until the test ends. */
export async function configure(stub: DurableObjectStub<Cell | TenantAdapterStore>, variables: object): Promise<void> {
  const change = (values: object) =>
    runInDurableObject(stub, (object) => void Object.assign((object as unknown as { env: object }).env, values));
  const before = Object.fromEntries(Object.keys(variables).map((name) => [name, env[name as never]]));
  onTestFinished(() => change(before));
  await change(variables);
}
