/** Talks to one backend over HTTP. Whatever goes wrong becomes a CallFailure. Not here: which backend, and what then. */
import { z } from "zod";
import {
  type AdapterAnswer,
  type AdapterRequest,
  adapterAnswerSchema,
  type BatchRequest,
  contractVersion,
  type Frame,
  numericsHeader,
  ownAdaptersOf,
  type Readiness,
  readinessSchema,
  readNumerics,
  sentBatch,
} from "../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";
import type { BackendFetch } from "../config.ts";
import { away, brokenOff, CallFailure, divergence, type FailureKind, retryAfterSeconds } from "./call-failure.ts";
import type { SignCall } from "./call-signer.ts";
import { frameGroupsOf, SilenceError } from "./frames.ts";
import { Gate } from "./gate.ts";
import { acceptanceMs, adapterMs, awaitingCalls, probeMs, silenceMs } from "./routing-limits.ts";

/** A batch that a backend has accepted. */
export interface OpenBatch {
  /** The backend's numerics fingerprint; null from one that tells none. */
  numerics: string | null;
  /** As they come, each chunk's together. */
  frames: AsyncIterable<Frame[]>;
}

/** What one backend can be asked. */
export interface BackendCalls {
  /**
   * Resolves when the batch is accepted. `numerics` are those that its sequences go on from, null where unknown or where none
   * has begun. Rejects with a CallFailure, and so does the iteration of the frames.
   */
  openBatch(batch: BatchRequest, signal: AbortSignal, numerics: string | null): Promise<OpenBatch>;
  /** Drops sequences of a batch that goes on for others. */
  cancel(ids: string[]): Promise<void>;
  /** What the backend serves, or null where it is not ready. */
  readiness(): Promise<Readiness | null>;
}

/** Bytes of a tenant's own adapter; null where there is none of that hash. */
export type AdapterFiles = (tenant: string, hash: string) => Promise<ArrayBuffer | null>;

export interface ClientLimits {
  acceptanceMs: number;
  silenceMs: number;
  probeMs: number;
}

export interface ClientParts {
  /** Common to all clients of an object, which may await only so many answers at once. */
  gate?: Gate;
  /** Without it calls go out unsigned. */
  sign?: SignCall;
  /** The global one where there is none. */
  fetch?: BackendFetch;
  /** Gives the bytes of a tenant's adapter, which a backend may lack. */
  fileOf?: AdapterFiles;
  limits?: Partial<ClientLimits>;
}

interface Init {
  method?: string;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal;
}

const encoder = new TextEncoder();
const numericsMismatch: ErrorKind = "numerics_mismatch";
const envelopeSchema = z.object({ error: z.object({ message: z.string(), code: z.string().nullable().optional() }) });

export class BackendClient implements BackendCalls {
  readonly #url: string;
  readonly #gate: Gate;
  readonly #sign: SignCall;
  readonly #call: BackendFetch;
  readonly #fileOf: AdapterFiles;
  readonly #limits: ClientLimits;

  constructor(url: string, { gate, sign, fetch: call, fileOf, limits }: ClientParts = {}) {
    this.#url = url;
    this.#gate = gate ?? new Gate(awaitingCalls);
    this.#sign = sign ?? (async () => ({}));
    this.#call = call ?? ((target, init) => fetch(target, init));
    this.#fileOf = fileOf ?? (async () => null);
    this.#limits = { acceptanceMs, silenceMs, probeMs, ...limits };
  }

  async openBatch(batch: BatchRequest, signal: AbortSignal, numerics: string | null): Promise<OpenBatch> {
    const headers: Record<string, string> = numerics ? { [numericsHeader]: numerics } : {};
    const send = () => this.#post("/v1/batches", sentBatch(batch), this.#limits.acceptanceMs, { signal, headers });
    let response = await send();
    // Of what a batch names, a backend can lack only a tenant's own adapters.
    const own = response.status === 404 ? ownAdaptersOf(batch) : [];
    if (own.length > 0) {
      await response.body?.cancel();
      for (const hash of own) await this.#bring(batch.sequences[0].tenant, hash, signal);
      response = await send();
    }
    if (!response.ok || !response.body) throw await refusalOf(response);
    return {
      numerics: readNumerics(response.headers.get(numericsHeader)),
      frames: frameGroupsOf(response.body, this.#limits.silenceMs, failureOfFrames),
    };
  }

  async cancel(ids: string[]): Promise<void> {
    const { acceptanceMs: limitMs } = this.#limits;
    const response = await this.#post("/v1/cancellations", { version: contractVersion, ids }, limitMs);
    await response.body?.cancel();
  }

  async readiness(): Promise<Readiness | null> {
    const response = await this.#fetch("/readyz", {}, this.#limits.probeMs);
    const body = readinessSchema.safeParse(await response.json().catch(() => null));
    return response.ok && body.success ? body.data : null;
  }

  /** Makes an adapter of a tenant's examples. Rejects with a CallFailure. */
  async createAdapter(request: AdapterRequest): Promise<AdapterAnswer> {
    const response = await this.#post("/v1/adapters", request, adapterMs);
    if (!response.ok) throw await refusalOf(response);
    const answer = adapterAnswerSchema.safeParse(await response.json().catch(() => null));
    if (!answer.success) throw brokenOff(answer.error);
    return answer.data;
  }

  /** Lets go of a tenant's adapter, if it is there. */
  async removeAdapter(tenant: string, hash: string): Promise<void> {
    const { acceptanceMs: limitMs } = this.#limits;
    const response = await this.#fetch(`/v1/adapters/${tenant}/${hash}`, { method: "DELETE" }, limitMs);
    await response.body?.cancel();
  }

  /** Gives the backend a tenant's adapter that it lacks. Rejects with a CallFailure. */
  async #bring(tenant: string, hash: string, signal: AbortSignal): Promise<void> {
    const file = await this.#fileOf(tenant, hash);
    if (!file) {
      throw new CallFailure("refused", new ServiceError("adapter_not_found", "The adapter was deleted meanwhile."));
    }
    const headers = { "content-type": "application/octet-stream" };
    const put = { method: "PUT", headers, body: new Uint8Array(file), signal };
    const response = await this.#fetch(`/v1/adapters/${tenant}/${hash}`, put, this.#limits.acceptanceMs);
    if (!response.ok) throw await refusalOf(response);
    await response.body?.cancel();
  }

  #post(path: string, body: unknown, limitMs: number, { signal, headers }: Init = {}): Promise<Response> {
    const init = {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: encoder.encode(JSON.stringify(body)),
      signal,
    };
    return this.#fetch(path, init, limitMs);
  }

  /** Resolves to the answer's headers; waiting at the gate takes no time from `limitMs`. */
  #fetch(path: string, init: Init, limitMs: number): Promise<Response> {
    return this.#gate.pass(async () => {
      const signed = await this.#sign(init.method ?? "GET", path, init.body ?? new Uint8Array());
      const call = new AbortController();
      let isLate = false;
      const timer = setTimeout(() => {
        isLate = true;
        call.abort(new Error(`no answer within ${limitMs} ms`));
      }, limitMs);
      init.signal?.addEventListener("abort", () => call.abort(init.signal?.reason));
      if (init.signal?.aborted) call.abort(init.signal.reason);
      const { signal } = call;
      try {
        return await this.#call(this.#url + path, { ...init, headers: { ...init.headers, ...signed }, signal });
      } catch (cause) {
        const kind = isLate ? "silent" : "unreachable";
        throw away(kind, "The inference backend cannot be reached.", cause);
      } finally {
        clearTimeout(timer);
      }
    });
  }
}

function failureOfFrames(cause: unknown): CallFailure {
  return cause instanceof SilenceError ? away("silent", "The inference backend fell silent.", cause) : brokenOff(cause);
}

async function refusalOf(response: Response): Promise<CallFailure> {
  const body = envelopeSchema.safeParse(await response.json().catch(() => null));
  const said = body.success ? body.data.error.message : "no reason given";
  const cause = new Error(`the backend answered ${response.status}: ${said}`);
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const options = { retryAfterSeconds: Number.isFinite(seconds) ? seconds : retryAfterSeconds, cause };
  const busy = `The inference backend takes no requests now: ${said}`;
  if (body.success && body.data.error.code === numericsMismatch) return divergence(cause);
  if (response.status === 429) return new CallFailure("overloaded", new ServiceError("overloaded", busy, options));
  const kind = kindOfStatus(response.status);
  if (kind === "refused") {
    return new CallFailure(
      kind,
      new ServiceError("internal", "The inference backend refused this request.", { cause }),
    );
  }
  const message = kind === "failing" ? "The inference backend failed on this request." : busy;
  return new CallFailure(kind, new ServiceError("backend_unavailable", message, options));
}

/** 401 is a matter of that backend's secret, all other 4xx are of our request. */
function kindOfStatus(status: number): FailureKind {
  if (status === 503) return "unavailable";
  if (status === 409) return "mismatched";
  return status >= 500 || status === 401 ? "failing" : "refused";
}
