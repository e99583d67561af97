/**
 * HTTP client for one address of backends. Every failure becomes a CallFailure. A call may name the process that it is for; it is
 * repeated while an address that does not route by name leads it to others. Not here: which backend to use, and retries.
 */

import { z } from "zod";
import { type BackendLoad, loadHeader, readLoad } from "../../shared/contracts/backend-load.ts";
import {
  type AdapterAnswer,
  type AdapterRequest,
  adapterOutcomeSchema,
  type BatchRequest,
  contractVersion,
  type Frame,
  numericsHeader,
  ownAdaptersOf,
  type Readiness,
  readinessSchema,
  readNumerics,
  sequencesPerBatch,
} from "../../shared/contracts/inference.ts";
import { nameHeader, readProcessName } from "../../shared/contracts/process-name.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";
import { pause } from "../platform/pause.ts";
import { hasOwnUrl, urlOf } from "./addresses.ts";
import {
  away,
  brokenOff,
  CallFailure,
  divergence,
  type FailureKind,
  failureOf,
  retryAfterSeconds,
} from "./call-failure.ts";
import type { SignCall } from "./call-signer.ts";
import { frameGroupsOf } from "./frames.ts";
import { Gate } from "./gate.ts";
import {
  acceptanceMs,
  adapterMs,
  adapterRounds,
  awaitingCalls,
  misdirectedPauseMs,
  misdirectedTries,
  probeMs,
  silenceMs,
} from "./routing-limits.ts";

/** A batch that a backend has accepted. */
export interface OpenBatch {
  /** Name of the process that accepted it; null if it gave none. */
  process: string | null;
  /** Whether the call named a process and reached another, which does not route by name. */
  isMisdirected: boolean;
  /** The backend's numerics fingerprint; null if it sent none. */
  numerics: string | null;
  /** Its load, this batch included; null if it sent none. */
  load: BackendLoad | null;
  /** The frames as they arrive, grouped by chunk. */
  frames: AsyncIterable<Frame[]>;
  /** True for all but the first of the batches that shared a call, as its answer counts once. */
  isRecorded?: boolean;
}

export interface BatchCall {
  signal: AbortSignal;
  /** Numerics fingerprint that its sequences continue with; null if unknown, or if none has tokens. */
  numerics: string | null;
  /** Name of the process to call; null: any of the address. */
  process: string | null;
  /** Whether no other process may accept it instead. */
  isOnlyProcess: boolean;
  /** Whether its sequences were sent in a call before, to any backend. A hedge is repeated, too. */
  isRepeated: boolean;
  /** Whether no other batch may be in the call. */
  isAlone: boolean;
}

/** The calls to one address of backends; `process` is the name of the process to call, null for any of the address. */
export interface BackendCalls {
  /** Resolves when the batch is accepted. Rejects with a CallFailure, and so does the iteration of the frames. */
  openBatch(batch: BatchRequest, call: BatchCall): Promise<OpenBatch>;
  /** Cancels sequences of a batch whose others go on, or, where such a call is under way, has them cancelled after it. */
  cancel(ids: string[], process: string | null): Promise<void>;
  /** What the backend serves; null if it is not ready. */
  readiness(process: string | null): Promise<Readiness | null>;
}

export type BackendFetch = (url: string, init: RequestInit) => Promise<Response>;

/** A process that may have a copy of a tenant's own adapter. */
export interface AdapterCopy {
  /** As configured. */
  address: string;
  /** null if it has given no name. */
  process: string | null;
}

export interface MadeAdapter extends AdapterAnswer {
  copy: AdapterCopy;
}

/** Bytes of a tenant's own adapter, for the process that is to have a copy; null if none has that hash. */
export type AdapterFiles = (tenant: string, hash: string, copy: AdapterCopy) => Promise<ArrayBuffer | null>;

export interface ClientLimits {
  acceptanceMs: number;
  silenceMs: number;
  probeMs: number;
}

interface ClientParts {
  /** Shared by all clients of an object, which may wait for only so many answers at once. */
  gate?: Gate;
  /** Without it calls are not signed. */
  sign?: SignCall;
  /** Default: the global `fetch`. */
  fetch?: BackendFetch;
  /** Returns the bytes of a tenant's adapter, for a backend that lacks it. */
  fileOf?: AdapterFiles;
  limits?: Partial<ClientLimits>;
}

interface Init {
  method?: string;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal;
  /** Name of the process that the call is for. */
  process?: string | null;
  /** Whether to repeat it while other processes refuse it. */
  isRepeated?: boolean;
}

const encoder = new TextEncoder();
const numericsMismatch: ErrorKind = "numerics_mismatch";
const envelopeSchema = z.object({ error: z.object({ message: z.string(), code: z.string().nullable().optional() }) });

export class BackendClient implements BackendCalls {
  readonly #url: string;
  readonly #parts: Required<ClientParts> & { limits: ClientLimits };
  #calls = 0;
  /** By process, while it is told of some: those to tell it of next. A process that hangs takes one connection, not all. */
  readonly #cancelled = new Map<string | null, string[]>();

  constructor(url: string, parts: ClientParts = {}) {
    this.#url = url;
    this.#parts = {
      gate: new Gate(awaitingCalls),
      sign: async () => ({}),
      fetch: (target, init) => fetch(target, init),
      fileOf: async () => null,
      ...parts,
      limits: { acceptanceMs, silenceMs, probeMs, ...parts.limits },
    };
  }

  async openBatch(batch: BatchRequest, call: BatchCall): Promise<OpenBatch> {
    const { signal, numerics, isOnlyProcess } = call;
    const headers: Record<string, string> = numerics ? { [numericsHeader]: numerics } : {};
    const body = encoder.encode(JSON.stringify(batch));
    const send = (process: string | null, isRepeated: boolean) =>
      this.#post("/v1/batches", body, this.#parts.limits.acceptanceMs, { signal, headers, process, isRepeated });
    let wanted = call.process;
    let response = await send(wanted, isOnlyProcess);
    const isMisdirected = isRefusedByOther(response, wanted);
    if (isMisdirected && !isOnlyProcess) {
      await response.body?.cancel();
      wanted = null;
      response = await send(wanted, false);
    }
    // All that a batch names and a backend can lack are a tenant's own adapters.
    const own = ownAdaptersOf(batch);
    for (let round = 0; own.length > 0 && response.status === 404 && round < adapterRounds; round++) {
      wanted = processOf(response);
      await response.body?.cancel();
      for (const hash of own) await this.#upload(batch.sequences[0].tenant, hash, wanted, signal);
      response = await send(wanted, true);
    }
    if (own.length > 0 && response.status === 404) {
      // The processes of an address without names each lack what was uploaded to another.
      const message = "The inference backend does not keep the adapter that it was given.";
      throw away("failing", message, undefined, processOf(response));
    }
    if (!response.ok || !response.body) throw await failureOfResponse(response, wanted);
    return {
      process: processOf(response),
      isMisdirected,
      numerics: readNumerics(response.headers.get(numericsHeader)),
      load: readLoad(response.headers.get(loadHeader)),
      frames: frameGroupsOf(response.body, this.#parts.limits.silenceMs),
    };
  }

  async cancel(ids: string[], process: string | null): Promise<void> {
    const others = this.#cancelled.get(process);
    if (others) {
      others.push(...ids);
      return;
    }
    const left = ids.slice(sequencesPerBatch);
    this.#cancelled.set(process, left);
    try {
      await this.#cancelNow(ids.slice(0, sequencesPerBatch), process);
    } finally {
      this.#cancelled.delete(process);
      if (left.length > 0) await this.cancel(left, process);
    }
  }

  async #cancelNow(ids: string[], process: string | null): Promise<void> {
    const body = encoder.encode(JSON.stringify({ version: contractVersion, ids }));
    const response = await this.#post("/v1/cancellations", body, this.#parts.limits.acceptanceMs, {
      process,
      isRepeated: true,
    });
    await response.body?.cancel();
  }

  async readiness(process: string | null = null): Promise<Readiness | null> {
    const response = await this.#fetch("/readyz", { process, isRepeated: true }, this.#parts.limits.probeMs);
    const body = readinessSchema.safeParse(await response.json().catch(() => null));
    return response.ok && body.success ? body.data : null;
  }

  /** Makes an adapter of a tenant's examples; `begun` is called when the backend begins to compute, and the answer says who has a copy. Rejects with a CallFailure. */
  async createAdapter(request: AdapterRequest, signal: AbortSignal, begun: () => void): Promise<MadeAdapter> {
    // Also while the body is read.
    const limit = AbortSignal.any([signal, AbortSignal.timeout(adapterMs)]);
    const body = encoder.encode(JSON.stringify(request));
    const response = await this.#post("/v1/adapters", body, adapterMs, { signal: limit });
    if (!response.ok) throw await failureOfResponse(response, null);
    begun();
    const outcome = adapterOutcomeSchema.safeParse(await response.json().catch(() => null));
    if (!outcome.success) throw brokenOff(outcome.error);
    const copy = { address: this.#url, process: processOf(response) };
    if ("hash" in outcome.data) return { ...outcome.data, copy };
    const { kind, message } = outcome.data;
    throw failureOf(outcome.data) ?? new CallFailure("refused", new ServiceError(kind, message));
  }

  /**
   * Deletes a tenant's adapter at a process, or all of the tenant's where `hash` is null. Where the address leads to one process,
   * which has another name since it was restarted, that one is asked. Rejects with a CallFailure unless it is confirmed.
   */
  async removeAdapters(tenant: string, hash: string | null, process: string | null): Promise<void> {
    const path = hash === null ? `/v1/adapters/${tenant}` : `/v1/adapters/${tenant}/${hash}`;
    const remove = (name: string | null) =>
      this.#fetch(path, { method: "DELETE", process: name }, this.#parts.limits.acceptanceMs);
    let response = await remove(process);
    if (isRefusedByOther(response, process) && !hasOwnUrl(this.#url)) {
      await response.body?.cancel();
      response = await remove(null);
    }
    if (!response.ok) throw await failureOfResponse(response, process);
    await response.body?.cancel();
  }

  /** Uploads a tenant's adapter to a process that lacks it. Rejects with a CallFailure. */
  async #upload(tenant: string, hash: string, process: string | null, signal: AbortSignal): Promise<void> {
    const file = await this.#parts.fileOf(tenant, hash, { address: this.#url, process });
    if (!file) {
      throw new CallFailure("refused", new ServiceError("adapter_not_found", "The adapter was deleted meanwhile."));
    }
    const headers = { "content-type": "application/octet-stream" };
    const put = { method: "PUT", headers, body: new Uint8Array(file), signal, process, isRepeated: true };
    const response = await this.#fetch(`/v1/adapters/${tenant}/${hash}`, put, this.#parts.limits.acceptanceMs);
    if (!response.ok) throw await failureOfResponse(response, process);
    await response.body?.cancel();
  }

  #post(path: string, body: Uint8Array, limitMs: number, init: Init = {}): Promise<Response> {
    const headers = { ...init.headers, "content-type": "application/json" };
    return this.#fetch(path, { ...init, method: "POST", headers, body }, limitMs);
  }

  /** Resolves when the response headers arrive. Each try has `limitMs` of its own. */
  async #fetch(path: string, init: Init, limitMs: number): Promise<Response> {
    const wanted = init.process ?? null;
    const seen = new Set<string | null>();
    const call = this.#calls++;
    for (let tries = 1; ; tries++) {
      if (tries > 1) await pause(misdirectedPauseMs(call, tries));
      const isLast = !init.isRepeated || wanted === null || tries >= misdirectedTries(seen.size);
      try {
        const response = await this.#fetchOnce(path, init, limitMs);
        if (isLast || !isRefusedByOther(response, wanted)) return response;
        seen.add(processOf(response));
        await response.body?.cancel();
      } catch (thrown) {
        // The address may have led to another process, which is down.
        const isOther = thrown instanceof CallFailure && thrown.kind === "unreachable" && !hasOwnUrl(this.#url);
        if (isLast || !isOther || init.signal?.aborted) throw thrown;
      }
    }
  }

  /** The wait at the gate does not count in `limitMs`. */
  #fetchOnce(
    path: string,
    { method, headers, body, signal, process = null }: Init,
    limitMs: number,
  ): Promise<Response> {
    const { gate, sign, fetch: call } = this.#parts;
    return gate.pass(async () => {
      const signed = await sign(method ?? "GET", path, body ?? new Uint8Array(), process);
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
        throw away(kind, "The inference backend cannot be reached.", cause);
      } finally {
        clearTimeout(timer);
      }
    });
  }
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
  throw away("failing", "The inference backend failed on this request.", cause, processOf(response));
}

/** Whether a call that names a process was refused because it reached another. */
function isRefusedByOther(response: Response, wanted: string | null): boolean {
  return wanted !== null && response.status === 421;
}

/** The failure that a response means, to a call for the process `wanted`. */
async function failureOfResponse(response: Response, wanted: string | null): Promise<CallFailure> {
  const process = processOf(response);
  const body = envelopeSchema.safeParse(await response.json().catch(() => null));
  const said = body.success ? body.data.error.message : "no reason given";
  const cause = new Error(`the backend answered ${response.status}: ${said}`);
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const options = { retryAfterSeconds: Number.isFinite(seconds) ? seconds : retryAfterSeconds, cause };
  const busy = `The inference backend takes no requests now: ${said}`;
  const failure = (kind: FailureKind, error: ErrorKind, message: string) =>
    new CallFailure(kind, new ServiceError(error, message, kind === "refused" ? { cause } : options), process);
  if (isRefusedByOther(response, wanted)) {
    return away("misdirected", "The inference backend that began this is gone.", cause);
  }
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
