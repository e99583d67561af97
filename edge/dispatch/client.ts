/** HTTP client for one address of backends. Every failure becomes a CallFailure. Routing, queueing and retries are the Dispatcher's. */
import * as z from "zod";
import {
  type BackendLoad,
  loadHeader,
  nameHeader,
  readLoad,
  readProcessName,
} from "../../shared/contracts/backend-headers.ts";
import type { SignCall } from "../../shared/contracts/call-signature.ts";
import {
  type AdapterAnswer,
  type AdapterRequest,
  adapterOutcomeSchema,
  type BatchRequest,
  contractVersion,
  type Frame,
  heartbeatMs,
  memoriesOf,
  memoryProgressSchema,
  numericsHeader,
  ownAdaptersOf,
  type Readiness,
  readinessSchema,
  readNumerics,
} from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";
import { hasProcesses, urlOf } from "./addresses.ts";
import {
  brokenStream,
  CallFailure,
  divergence,
  type FailureKind,
  failureOf,
  retryAfterSeconds,
  unavailable,
} from "./call-failure.ts";
import { frameGroupsOf, linesOf } from "./frames.ts";
import { acceptanceMs, adapterMs, probeMs, silenceMs } from "./routing-limits.ts";

/** A batch that a backend has accepted. */
export interface OpenBatch {
  /** Name of the process that accepted it; null if it gave none. */
  process: string | null;
  /** The backend's numerics fingerprint; null if it sent none. */
  numerics: string | null;
  /** Its load, this batch included; null if it sent none. */
  load: BackendLoad | null;
  /** The frames as they arrive, grouped by chunk. */
  frames: AsyncIterable<Frame[]>;
}

export interface BatchCall {
  signal: AbortSignal;
  /** Numerics fingerprint that its sequences continue with; null if unknown, or if none has tokens. */
  numerics: string | null;
  /** Name of the process to call; null: the address, which leads to one process or to any of several. */
  process: string | null;
}

/** What routing needs of a BackendClient. */
export type BackendCalls = Pick<BackendClient, "openBatch" | "cancel" | "readiness">;

export type BackendFetch = (url: string, init: RequestInit) => Promise<Response>;

/** A process that may have a copy of a tenant's own adapter. */
export interface AdapterCopy {
  /** As configured. */
  address: string;
  /** null: the one process of the address. */
  process: string | null;
}

export interface MadeAdapter extends AdapterAnswer {
  copy: AdapterCopy;
}

/** Bytes of a tenant's own adapter, for the process that is to have a copy; null if none has that hash. */
export type AdapterFiles = (tenant: string, hash: string, copy: AdapterCopy) => Promise<Uint8Array | null>;

/** The body of PUT /v1/memories/TENANT/HASH, for the process that is to have a copy; null if none has that hash. */
export type MemoryFiles = (
  tenant: string,
  hash: string,
  manifestHash: string,
  copy: AdapterCopy,
) => Promise<Uint8Array | null>;

export interface MemoryCall {
  signal: AbortSignal;
  process: string | null;
  /** The process that answers may have a copy from now on. */
  begun?(copy: AdapterCopy): void;
  /** So many tokens are done. */
  progress?(tokens: number): void;
}

export interface ClientLimits {
  acceptanceMs: number;
  silenceMs: number;
  probeMs: number;
}

interface ClientParts {
  /** Without it calls are not signed. */
  sign?: SignCall;
  /** Default: the global `fetch`. */
  fetch?: BackendFetch;
  /** Returns the bytes of a tenant's adapter, for a backend that lacks it. */
  fileOf?: AdapterFiles;
  /** Returns the documents of a tenant's memory, for a backend that lacks it. */
  memoryOf?: MemoryFiles;
  limits?: Partial<ClientLimits>;
}

interface Init {
  method?: string;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal;
  /** Name of the process that the call is for. */
  process?: string | null;
}

/** Progress of a memory is told every `heartbeatMs`. One that waits for others makes none, but no longer than any request may take. */
const idleLines = limits.deadlineMs / heartbeatMs;

const encoder = new TextEncoder();
const numericsMismatch: ErrorKind = "numerics_mismatch";
const envelopeSchema = z.object({ error: z.object({ message: z.string(), code: z.string().nullable().optional() }) });

/** The calls to one address of backends; `process` is the name of the process to call; null: see BatchCall. */
export class BackendClient {
  readonly #url: string;
  readonly #parts: Required<ClientParts> & { limits: ClientLimits };
  constructor(url: string, parts: ClientParts = {}) {
    this.#url = url;
    this.#parts = {
      sign: async () => ({}),
      fetch: (target, init) => fetch(target, init),
      fileOf: async () => null,
      memoryOf: async () => null,
      ...parts,
      limits: { acceptanceMs, silenceMs, probeMs, ...parts.limits },
    };
  }

  /** Resolves when the batch is accepted. Rejects with a CallFailure, and so does the iteration of the frames. */
  async openBatch(batch: BatchRequest, { signal, numerics, process }: BatchCall): Promise<OpenBatch> {
    const headers: Record<string, string> = numerics ? { [numericsHeader]: numerics } : {};
    const body = encoder.encode(JSON.stringify(batch));
    const send = (to: string | null) =>
      this.#post("/v1/batches", body, this.#parts.limits.acceptanceMs, { signal, headers, process: to });
    let response = await send(process);
    const lacking = ownAdaptersOf(batch).length + memoriesOf(batch).length > 0;
    // A backend answers 404 if it lacks an own adapter, and then again if it lacks a memory.
    const brought = new Set<string>();
    while (lacking && response.status === 404) {
      const receiver = this.#processOf(response);
      const what = (await errorCodeOf(response)) === "memory_not_found" ? "memories" : "adapters";
      if (brought.has(what)) {
        const message = "The inference backend does not keep the adapter or memory that it was given.";
        throw unavailable("failing", message, undefined, processOf(response));
      }
      brought.add(what);
      await this.#upload(batch, what, receiver, signal);
      response = await send(receiver);
    }
    if (!response.ok || !response.body) throw await failureOfResponse(response);
    return {
      process: processOf(response),
      numerics: readNumerics(response.headers.get(numericsHeader)),
      load: readLoad(response.headers.get(loadHeader)),
      frames: frameGroupsOf(response.body, this.#parts.limits.silenceMs),
    };
  }

  /** Cancels at most `sequencesPerBatch` sequences, whose ids the process knows. */
  async cancel(ids: string[], process: string | null): Promise<void> {
    const body = encoder.encode(JSON.stringify({ version: contractVersion, ids }));
    const response = await this.#post("/v1/cancellations", body, this.#parts.limits.acceptanceMs, { process });
    await response.body?.cancel();
  }

  /** The backend's manifests; null if it is not ready. */
  async readiness(process: string | null = null): Promise<Readiness | null> {
    const response = await this.#fetch("/readyz", { process }, this.#parts.limits.probeMs);
    const body = readinessSchema.safeParse(await response.json().catch(() => null));
    return response.ok && body.success ? body.data : null;
  }

  /**
   * Makes an adapter of a tenant's examples; `begun` is called when the backend begins to compute. The answer tells which process has
   * a copy. Rejects with a CallFailure.
   */
  async createAdapter(request: AdapterRequest, signal: AbortSignal, begun: () => void): Promise<MadeAdapter> {
    // Also while the body is read. AbortSignal.timeout would keep an object in memory after that.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error(`no adapter within ${adapterMs} ms`)), adapterMs);
    try {
      const init = { signal: AbortSignal.any([signal, late.signal]) };
      const response = await this.#post("/v1/adapters", encoder.encode(JSON.stringify(request)), adapterMs, init);
      if (!response.ok) throw await failureOfResponse(response);
      begun();
      const outcome = adapterOutcomeSchema.safeParse(await response.json().catch(() => null));
      if (!outcome.success) throw brokenStream(outcome.error);
      const copy = { address: this.#url, process: this.#processOf(response) };
      if ("hash" in outcome.data) return { ...outcome.data, copy };
      const { kind, message } = outcome.data;
      throw failureOf(outcome.data) ?? new CallFailure("refused", new ServiceError(kind, message));
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Deletes a tenant's adapter or memory at a process, or all of the tenant's if `hash` is null. Rejects with a CallFailure unless it
   * is confirmed.
   */
  async remove(
    what: "adapters" | "memories",
    tenant: string,
    hash: string | null,
    process: string | null,
  ): Promise<void> {
    const path = hash === null ? `/v1/${what}/${tenant}` : `/v1/${what}/${tenant}/${hash}`;
    const response = await this.#fetch(path, { method: "DELETE", process }, this.#parts.limits.acceptanceMs);
    if (!response.ok) throw await failureOfResponse(response);
    await response.body?.cancel();
  }

  /**
   * Has a process make a memory of documents, or of what it lacks of them; `body` is a MemoryRequest. Resolves when it is ready.
   * Rejects with a CallFailure, also where the process is silent for `silenceMs`, or makes no progress in `idleLines` lines.
   */
  async putMemory(
    tenant: string,
    hash: string,
    body: Uint8Array,
    { signal, process, begun, progress }: MemoryCall,
  ): Promise<void> {
    const headers = { "content-type": "application/json" };
    const put = { method: "PUT", headers, body, signal, process };
    begun?.({ address: this.#url, process });
    const response = await this.#fetch(`/v1/memories/${tenant}/${hash}`, put, adapterMs);
    if (!response.ok || !response.body) throw await failureOfResponse(response);
    const answered = this.#processOf(response);
    if (answered !== process) begun?.({ address: this.#url, process: answered });
    let [most, idle] = [0, 0];
    for await (const lines of linesOf(response.body, this.#parts.limits.silenceMs)) {
      for (const line of lines) {
        const { data, error } = memoryProgressSchema.safeParse(parsedJson(line));
        if (error) throw brokenStream(error);
        if (data.type === "ready") return;
        if (data.type === "progress") {
          progress?.(data.tokens);
          idle = data.tokens > most ? 0 : idle + 1;
          most = Math.max(most, data.tokens);
          if (idle < idleLines) continue;
          throw unavailable("silent", "The inference backend makes no progress with this memory.", undefined, answered);
        } else throw failureOf(data) ?? new CallFailure("refused", new ServiceError(data.kind, data.message));
      }
    }
    throw brokenStream(new Error("the answer ended before the memory was ready"));
  }

  /** Uploads what a batch names and a process may lack. Rejects with a CallFailure. */
  async #upload(
    batch: BatchRequest,
    what: "adapters" | "memories",
    process: string | null,
    signal: AbortSignal,
  ): Promise<void> {
    const [{ tenant }] = batch.sequences;
    const copy = { address: this.#url, process };
    for (const hash of what === "adapters" ? ownAdaptersOf(batch) : []) {
      const file = await this.#parts.fileOf(tenant, hash, copy);
      if (!file) throw missing("adapter_not_found", "The adapter was deleted meanwhile.");
      const headers = { "content-type": "application/octet-stream" };
      const put = { method: "PUT", headers, body: file, signal, process };
      const response = await this.#fetch(`/v1/adapters/${tenant}/${hash}`, put, this.#parts.limits.acceptanceMs);
      if (!response.ok) throw await failureOfResponse(response);
      await response.body?.cancel();
    }
    for (const hash of what === "memories" ? memoriesOf(batch) : []) {
      const body = await this.#parts.memoryOf(tenant, hash, batch.manifestHash, copy);
      if (!body) {
        const message =
          "The memory was deleted meanwhile, or no backend has it any more and its documents were not kept.";
        throw missing("memory_deleted", message);
      }
      await this.putMemory(tenant, hash, body, { signal, process });
    }
  }

  /** The process that answered, if the address leads to several. */
  #processOf(response: Response): string | null {
    return hasProcesses(this.#url) ? processOf(response) : null;
  }

  #post(path: string, body: Uint8Array, limitMs: number, init: Init = {}): Promise<Response> {
    const headers = { ...init.headers, "content-type": "application/json" };
    return this.#fetch(path, { ...init, method: "POST", headers, body }, limitMs);
  }

  /** Resolves when the response headers arrive. */
  async #fetch(
    path: string,
    { method = "GET", headers, body, signal, process = null }: Init,
    limitMs: number,
  ): Promise<Response> {
    const { sign, fetch: call } = this.#parts;
    const signed = await sign(method, path, body ?? new Uint8Array(), process);
    const named: Record<string, string> = process === null ? {} : { [nameHeader]: process };
    const abort = new AbortController();
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      abort.abort(new Error(`no answer within ${limitMs} ms`));
    }, limitMs);
    signal?.addEventListener("abort", () => abort.abort(signal.reason));
    if (signal?.aborted) abort.abort(signal.reason);
    try {
      // A redirect would take prompts and tokens to an address that is not configured.
      const redirect = "manual" as const;
      const init = { method, headers: { ...headers, ...named, ...signed }, body, signal: abort.signal, redirect };
      return await withoutRedirect(await call(urlOf(this.#url, process) + path, init));
    } catch (cause) {
      if (cause instanceof CallFailure) throw cause;
      const kind = isLate ? "silent" : "unreachable";
      throw unavailable(kind, "The inference backend cannot be reached.", cause);
    } finally {
      clearTimeout(timer);
    }
  }
}

function missing(kind: ErrorKind, message: string): CallFailure {
  return new CallFailure("lacking", new ServiceError(kind, message));
}

function parsedJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

/** The code of a response's error envelope; null if it has none. */
async function errorCodeOf(response: Response): Promise<string | null> {
  const body = envelopeSchema.safeParse(await response.json().catch(() => null));
  return body.data?.error.code ?? null;
}

function processOf(response: Response): string | null {
  return readProcessName(response.headers.get(nameHeader));
}

/** Throws a CallFailure for a redirect, which is not followed. */
async function withoutRedirect(response: Response): Promise<Response> {
  if (response.status < 300 || response.status > 399) return response;
  await response.body?.cancel();
  const location = URL.parse(response.headers.get("location") ?? "")?.origin ?? "the same host";
  const cause = new Error(`the backend answered ${response.status}, a redirect to ${location}, which is not followed`);
  throw unavailable("failing", "The inference backend failed on this request.", cause, processOf(response));
}

/** The failure that a response means. */
async function failureOfResponse(response: Response): Promise<CallFailure> {
  const process = processOf(response);
  const body = envelopeSchema.safeParse(await response.json().catch(() => null));
  const reason = body.success ? body.data.error.message : "no reason given";
  const cause = new Error(`the backend answered ${response.status}: ${reason}`);
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const options = { retryAfterSeconds: Number.isFinite(seconds) ? seconds : retryAfterSeconds, cause };
  const busy = `The inference backend takes no requests now: ${reason}`;
  const failure = (kind: FailureKind, error: ErrorKind, message: string) =>
    new CallFailure(kind, new ServiceError(error, message, kind === "refused" ? { cause } : options), process);
  if (response.status === 421)
    return unavailable("misdirected", "The inference backend that was called is gone.", cause);
  if (body.success && body.data.error.code === numericsMismatch) return divergence(cause, process);
  if (response.status === 429) return failure("overloaded", "overloaded", busy);
  const kind = kindOfStatus(response.status);
  if (kind === "refused") return failure(kind, "internal", "The inference backend refused this request.");
  const message = kind === "failing" ? "The inference backend failed on this request." : busy;
  return failure(kind, "backend_unavailable", message);
}

/** 401 concerns that backend's secret; all other 4xx concern our request. */
function kindOfStatus(status: number): FailureKind {
  if (status === 503) return "unavailable";
  if (status === 409) return "mismatched";
  return status >= 500 || status === 401 ? "failing" : "refused";
}
