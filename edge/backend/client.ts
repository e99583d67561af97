/** Talks to one backend over HTTP. Whatever goes wrong becomes a ServiceError or an error frame that says so. */
import { z } from "zod";
import {
  type BatchRequest,
  contractVersion,
  type Frame,
  type Readiness,
  readinessSchema,
} from "../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";
import { complete } from "./dispatch.ts";
import { framesOf } from "./frames.ts";

/** Seconds that a caller is told to wait where the backend did not say. */
const retryAfterSeconds = 2;
/** An accepted batch streams for as long as it takes; accepting it, and answering a probe, has to be quick. */
const acceptanceTimeoutMs = 10_000;
const probeTimeoutMs = 2000;

const envelopeSchema = z.object({ error: z.object({ message: z.string(), code: z.string().nullable().optional() }) });

/** What a public caller is told by the status a backend refuses with; any other is a mistake of ours. */
const refusals: Partial<Record<number, ErrorKind>> = {
  409: "backend_unavailable", // another manifest: it, or we, are being replaced
  429: "overloaded",
  503: "backend_unavailable",
};

export class BackendClient {
  readonly #url: string;
  readonly #acceptanceTimeoutMs: number;

  constructor(url: string, timeoutMs = acceptanceTimeoutMs) {
    this.#url = url;
    this.#acceptanceTimeoutMs = timeoutMs;
  }

  /** A Dispatch. */
  async openBatch(batch: BatchRequest, signal: AbortSignal): Promise<AsyncIterable<Frame>> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error("no answer in time")), this.#acceptanceTimeoutMs);
    try {
      const response = await this.#post("/v1/batches", batch, AbortSignal.any([signal, late.signal]));
      return await openFrames(response, batch);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Tells the backend to drop sequences of a batch that goes on for others. */
  async cancel(ids: string[]): Promise<void> {
    const response = await this.#post("/v1/cancellations", { version: contractVersion, ids });
    await response.body?.cancel();
  }

  /** What the backend serves, or null where it is not ready. */
  async readiness(): Promise<Readiness | null> {
    const response = await this.#fetch("/readyz", { signal: AbortSignal.timeout(probeTimeoutMs) });
    const body = readinessSchema.safeParse(await response.json().catch(() => null));
    return response.ok && body.success ? body.data : null;
  }

  #post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
    const headers = { "content-type": "application/json" };
    return this.#fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(this.#url + path, init);
    } catch (cause) {
      throw unavailable("The inference backend cannot be reached.", cause);
    }
  }
}

/** The frames of an accepted batch, or the ServiceError of a refused one. */
export async function openFrames(response: Response, batch: BatchRequest): Promise<AsyncIterable<Frame>> {
  if (!response.ok || !response.body) throw await refusal(response);
  const ids = batch.sequences.map(({ id }) => id);
  return complete(framesOf(response.body), ids, (cause) =>
    unavailable("The inference backend broke off before this completion ended.", cause),
  );
}

async function refusal(response: Response): Promise<ServiceError> {
  const body = envelopeSchema.safeParse(await response.json().catch(() => null));
  const said = body.success ? body.data.error.message : "no reason given";
  const kind = refusals[response.status] ?? "internal";
  const cause = new Error(`the backend answered ${response.status}: ${said}`);
  if (kind === "internal")
    return new ServiceError("internal", "The inference backend refused this request.", { cause });
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  return new ServiceError(kind, `The inference backend takes no requests now: ${said}`, {
    retryAfterSeconds: Number.isFinite(seconds) ? seconds : retryAfterSeconds,
    cause,
  });
}

function unavailable(message: string, cause?: unknown): ServiceError {
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds, cause });
}
