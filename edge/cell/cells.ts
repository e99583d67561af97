/**
 * The Worker's calls to cells. A tenant's requests go to the same cell, so that they share micro-batches. If a cell refuses or is lost, the
 * tenant's next cell is called. Not here: resuming an answer (resumable-answer.ts).
 */
import { ServiceError } from "../../shared/errors.ts";
import type { StreamCursor } from "../answer/sent-events.ts";
import { NotTaken } from "../dispatch/dispatcher.ts";
import { pause } from "../platform/clock.ts";
import type { Region } from "../platform/region.ts";
import { type CellNamespace, cellsOf, cellUrl } from "./cell-names.ts";
import { type CellRequest, readRefusal, resumedRequest } from "./cell-request.ts";

export interface CellsParts {
  namespace: CellNamespace;
  cellsPerRegion: number;
  now(): number;
  lost(requestId: string, error: unknown): void;
}

/** Pauses after the first, second and third loss; after the fourth, the request fails, so that it cannot crash many cells. */
const restartPausesMs = [0, 250, 1000];

export class CellCall {
  readonly request: CellRequest;
  readonly #region: Region;
  readonly signal: AbortSignal;
  readonly #parts: CellsParts;
  readonly #names: string[];
  readonly #startedMs: number;
  #calls = 0;
  #losses = 0;
  #isRefused = false;

  constructor(request: CellRequest, region: Region, signal: AbortSignal, parts: CellsParts) {
    this.request = request;
    this.#region = region;
    this.signal = signal;
    this.#parts = parts;
    this.#names = cellsOf(request.admitted.tenant, region, parts.cellsPerRegion);
    this.#startedMs = parts.now();
  }

  /** Resolves to the response of the first cell that accepts. Rejects with a refusal's ServiceError, or an Error after too many losses. */
  async begin(): Promise<Response> {
    return this.#call(null).catch((thrown) => this.resume(null, thrown));
  }

  /** Calls the next cell after `cause` ended a call. The response is the stream after `cursor`. Rejects as `begin` does. */
  async resume(cursor: StreamCursor | null, cause: unknown): Promise<Response> {
    for (let thrown = cause; ; ) {
      if (!(await this.#mayCallNext(thrown))) throw thrown;
      try {
        return await this.#call(cursor);
      } catch (error) {
        thrown = error;
      }
    }
  }

  async #call(cursor: StreamCursor | null): Promise<Response> {
    const { namespace, now } = this.#parts;
    const elapsedMs = now() - this.#startedMs;
    const request = this.#losses === 0 ? this.request : resumedRequest(this.request, this.#losses, cursor, elapsedMs);
    const cell = namespace(this.#names[this.#calls++ % this.#names.length], this.#region);
    const response = await cell.fetch(cellUrl, {
      method: "POST",
      body: JSON.stringify(request),
      signal: this.signal,
    });
    if (!response.ok) throw await readRefusal(response);
    const { headers } = response;
    return headers.has("content-length") ? new Response(await response.arrayBuffer(), { headers }) : response;
  }

  /** Waits for the pause that is due. Resolves to whether the next cell may be called. */
  async #mayCallNext(thrown: unknown): Promise<boolean> {
    if (this.signal.aborted) return false;
    if (isNotTaken(thrown)) {
      const isFirst = !this.#isRefused && this.#names.length > 1;
      this.#isRefused = true;
      return isFirst;
    }
    if (thrown instanceof ServiceError || this.#losses >= restartPausesMs.length) return false;
    this.#parts.lost(this.request.admitted.requestId, thrown);
    const pauseMs = restartPausesMs[this.#losses++];
    this.#isRefused = false;
    if (pauseMs > 0) await pause(pauseMs);
    return !this.signal.aborted;
  }
}

/** True if the cell refused the request, or the platform's queue for the cell is full. */
function isNotTaken(thrown: unknown): boolean {
  return thrown instanceof NotTaken || (thrown as { overloaded?: unknown } | null)?.overloaded === true;
}
