/** HTTP client for one backend address. Every failure becomes a CallFailure. Not here: routing, queueing and retries. */
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
  failureOfOutcome,
  retryAfterSeconds,
  unavailable,
} from "./call-failure.ts";
import { frameGroupsOf, linesOf } from "./frames.ts";
import { acceptanceMs, adapterMs, probeMs, silenceMs } from "./routing-limits.ts";

export interface OpenBatch {
  /** These three fields are null if the answer lacks them. */
  process: string | null;
  numerics: string | null;
  load: BackendLoad | null;
  frames: AsyncIterable<Frame[]>;
}

export interface BatchCall {
  signal: AbortSignal;
  /** Numerics fingerprint of the backend that computed the sequences' tokens; null if unknown. */
  numerics: string | null;
  /** Name of the process to call; null: any process of the address. */
  process: string | null;
}

export type BackendCalls = Pick<BackendClient, "openBatch" | "cancel" | "readiness">;

export type BackendFetch = (url: string, init: RequestInit) => Promise<Response>;

export interface AdapterCopy {
  address: string;
  process: string | null;
}

export interface MadeAdapter extends AdapterAnswer {
  copy: AdapterCopy;
}

/** Reads the bytes of a tenant's own adapter; null if no adapter has that hash. `copy`: the process that will store the bytes. */
export type AdapterFiles = (tenant: string, hash: string, copy: AdapterCopy) => Promise<Uint8Array | null>;

/** Makes the body of PUT /v1/memories/TENANT/HASH; null if the tenant has no memory with that hash. */
export type MemoryFiles = (
  tenant: string,
  hash: string,
  manifestHash: string,
  copy: AdapterCopy,
) => Promise<Uint8Array | null>;

interface MemoryCall {
  signal: AbortSignal;
  process: string | null;
  /** Called before a process gets the memory, because the process may then have a copy. */
  begun?(copy: AdapterCopy): void;
  /** `tokens`: number of tokens whose keys are stored so far. */
  progress?(tokens: number): void;
}

export type ClientLimits = Record<"acceptanceMs" | "silenceMs" | "probeMs", number>;

interface ClientParts {
  sign?: SignCall;
  fetch?: BackendFetch;
  fileOf?: AdapterFiles;
  memoryOf?: MemoryFiles;
  limits?: Partial<ClientLimits>;
}

interface Init {
  method?: string;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal;
  process?: string | null;
}

/** Consecutive reports without progress after which making a memory fails. A backend reports every `heartbeatMs`. */
const idleLines = limits.deadlineMs / heartbeatMs;

const encoder = new TextEncoder();
const json = { "content-type": "application/json" };
const numericsMismatch: ErrorKind = "numerics_mismatch";
const envelopeSchema = z.object({ error: z.object({ message: z.string(), code: z.string().nullable().optional() }) });

/** The parameter `process` of all methods is the name of a process, or null for any. */
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

  /** Resolves when the backend accepts the batch. Rejects with a CallFailure, as does iteration of the frames. */
  async openBatch(batch: BatchRequest, { signal, numerics, process }: BatchCall): Promise<OpenBatch> {
    const headers: Record<string, string> = numerics ? { [numericsHeader]: numerics } : {};
    const body = encoder.encode(JSON.stringify(batch));
    const send = (to: string | null) => this.#post("/v1/batches", body, { signal, headers, process: to });
    let response = await send(process);
    const lacking = ownAdaptersOf(batch).length + memoriesOf(batch).length > 0;
    // A 404 names one missing file at a time: first an own adapter, then a memory.
    const brought = new Set<string>();
    while (lacking && response.status === 404) {
      const receiver = this.#processOf(response);
      const what = (await errorOf(response)).code === "memory_not_found" ? "memories" : "adapters";
      if (brought.has(what)) {
        const message = "The inference backend does not keep the adapter or memory that it was given.";
        throw unavailable("failing", message, undefined, processOf(response));
      }
      brought.add(what);
      if (what === "adapters") await this.#uploadAdapters(batch, receiver, signal);
      else await this.#uploadMemories(batch, receiver, signal);
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

  /** Cancels at most `sequencesPerBatch` sequences. `ids`: their ids in calls to this process. */
  async cancel(ids: string[], process: string | null): Promise<void> {
    const body = encoder.encode(JSON.stringify({ version: contractVersion, ids }));
    const response = await this.#post("/v1/cancellations", body, { process });
    await response.body?.cancel();
  }

  async readiness(process: string | null = null): Promise<Readiness | null> {
    const response = await this.#fetch("/readyz", { process }, this.#parts.limits.probeMs);
    const body = readinessSchema.safeParse(await response.json().catch(() => null));
    return response.ok && body.success ? body.data : null;
  }

  /** `begun` is called when the backend begins to compute. Rejects with a CallFailure. */
  async createAdapter(request: AdapterRequest, signal: AbortSignal, begun: () => void): Promise<MadeAdapter> {
    // This timeout covers the body, too. AbortSignal.timeout would keep the Durable Object in RAM until it fires.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error(`no adapter within ${adapterMs} ms`)), adapterMs);
    try {
      const init = { signal: AbortSignal.any([signal, late.signal]) };
      const response = await this.#post("/v1/adapters", encoder.encode(JSON.stringify(request)), init, adapterMs);
      if (!response.ok) throw await failureOfResponse(response);
      begun();
      const { data, error } = adapterOutcomeSchema.safeParse(await response.json().catch(() => null));
      if (error) throw brokenStream(error);
      if (!("hash" in data)) throw failureOfOutcome(data);
      return { ...data, copy: { address: this.#url, process: this.#processOf(response) } };
    } finally {
      clearTimeout(timer);
    }
  }

  /** Deletes one adapter or memory, or all if `hash` is null. Rejects with a CallFailure unless the process confirms the deletion. */
  async remove(
    what: "adapters" | "memories",
    tenant: string,
    hash: string | null,
    process: string | null,
  ): Promise<void> {
    const path = hash === null ? `/v1/${what}/${tenant}` : `/v1/${what}/${tenant}/${hash}`;
    await this.#confirm(path, { method: "DELETE", process });
  }

  /** The process computes the part of the memory that it lacks. Rejects with a CallFailure, also if progress stops. */
  async putMemory(tenant: string, hash: string, body: Uint8Array, call: MemoryCall): Promise<void> {
    const { signal, process, begun, progress } = call;
    const put = { method: "PUT", headers: json, body, signal, process };
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
        if (data.type === "error") throw failureOfOutcome(data);
        progress?.(data.tokens);
        idle = data.tokens > most ? 0 : idle + 1;
        most = Math.max(most, data.tokens);
        if (idle < idleLines) continue;
        throw unavailable("silent", "The inference backend makes no progress with this memory.", undefined, answered);
      }
    }
    throw brokenStream(new Error("the answer ended before the memory was ready"));
  }

  async #uploadAdapters(batch: BatchRequest, process: string | null, signal: AbortSignal): Promise<void> {
    const [{ tenant }] = batch.sequences;
    for (const hash of ownAdaptersOf(batch)) {
      const body = await this.#parts.fileOf(tenant, hash, { address: this.#url, process });
      if (!body) throw missing("adapter_not_found", "The adapter was deleted meanwhile.");
      const headers = { "content-type": "application/octet-stream" };
      await this.#confirm(`/v1/adapters/${tenant}/${hash}`, { method: "PUT", headers, body, signal, process });
    }
  }

  async #uploadMemories(batch: BatchRequest, process: string | null, signal: AbortSignal): Promise<void> {
    const [{ tenant }] = batch.sequences;
    const message = "The memory was deleted meanwhile, or no backend has it any more and its documents were not kept.";
    for (const hash of memoriesOf(batch)) {
      const body = await this.#parts.memoryOf(tenant, hash, batch.manifestHash, { address: this.#url, process });
      if (!body) throw missing("memory_deleted", message);
      await this.putMemory(tenant, hash, body, { signal, process });
    }
  }

  #processOf(response: Response): string | null {
    return hasProcesses(this.#url) ? processOf(response) : null;
  }

  #post(path: string, body: Uint8Array, init: Init, limitMs?: number): Promise<Response> {
    return this.#fetch(path, { ...init, method: "POST", headers: { ...init.headers, ...json }, body }, limitMs);
  }

  /** Rejects with a CallFailure unless the backend answers with success. */
  async #confirm(path: string, init: Init): Promise<void> {
    const response = await this.#fetch(path, init);
    if (!response.ok) throw await failureOfResponse(response);
    await response.body?.cancel();
  }

  /** Resolves when the response's headers arrive. */
  async #fetch(
    path: string,
    { method = "GET", headers, body, signal, process = null }: Init,
    limitMs = this.#parts.limits.acceptanceMs,
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
      // Security: a redirect would send prompts to an address that is not configured.
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

async function errorOf(response: Response): Promise<{ message: string; code?: string | null }> {
  const { data } = envelopeSchema.safeParse(await response.json().catch(() => null));
  return data?.error ?? { message: "no reason given" };
}

function processOf(response: Response): string | null {
  return readProcessName(response.headers.get(nameHeader));
}

async function withoutRedirect(response: Response): Promise<Response> {
  if (response.status < 300 || response.status > 399) return response;
  await response.body?.cancel();
  const location = URL.parse(response.headers.get("location") ?? "")?.origin ?? "the same host";
  const cause = new Error(`the backend answered ${response.status}, a redirect to ${location}, which is not followed`);
  throw unavailable("failing", "The inference backend failed on this request.", cause, processOf(response));
}

const kindsOfStatuses: Record<number, FailureKind> = {
  // 401: the backend has another secret. Every other 4xx status concerns the request.
  401: "failing",
  409: "mismatched",
  421: "misdirected",
  429: "overloaded",
  503: "unavailable",
};

async function failureOfResponse(response: Response): Promise<CallFailure> {
  const process = processOf(response);
  const { message: reason, code } = await errorOf(response);
  const cause = new Error(`the backend answered ${response.status}: ${reason}`);
  if (code === numericsMismatch) return divergence(cause, process);
  const kind = kindsOfStatuses[response.status] ?? (response.status >= 500 ? "failing" : "refused");
  if (kind === "misdirected") return unavailable(kind, "The inference backend that was called is gone.", cause);
  if (kind === "refused") {
    const error = new ServiceError("internal", "The inference backend refused this request.", { cause });
    return new CallFailure(kind, error, process);
  }
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const options = { retryAfterSeconds: Number.isFinite(seconds) ? seconds : retryAfterSeconds, cause };
  const busy = `The inference backend takes no requests now: ${reason}`;
  const message = kind === "failing" ? "The inference backend failed on this request." : busy;
  const error = new ServiceError(kind === "overloaded" ? kind : "backend_unavailable", message, options);
  return new CallFailure(kind, error, process);
}
