/**
 * The Worker's side of the regional cells: which cell answers a request. A tenant's requests prefer one cell of their region,
 * by rendezvous hashing, so that they share micro-batches there. Where that cell refuses a request or is lost, the tenant's
 * next cell is asked. Not here: how a stream continues after a loss (resumable-answer.ts).
 */
import { ServiceError } from "../../shared/errors.ts";
import type { StreamCursor } from "../answer/sent-events.ts";
import { NotTaken } from "../dispatch/dispatcher.ts";
import { pause } from "../platform/pause.ts";
import type { Region } from "../platform/region.ts";
import { type CellNamespace, cellsOf, cellUrl } from "./cell-names.ts";
import { type CellRequest, resumedRequest } from "./cell-request.ts";
import { readRefusal } from "./refusal.ts";

export interface CellsParts {
  namespace: CellNamespace;
  cellsPerRegion: number;
  /** A clock in milliseconds. */
  now(): number;
  /** Cells were lost under a request; `error` is what the platform said. */
  lost(requestId: string, error: unknown): void;
}

/**
 * Pauses before a request is sent again after its cell was lost, in milliseconds; then it fails. A deploy resets an object
 * once or twice; a request that takes its cells with it must not take many.
 */
const restartPausesMs = [0, 250, 1000];

/** One request and the cells that are asked to answer it: one at a time, another after a refusal or a loss. */
export class CellCall {
  readonly request: CellRequest;
  readonly #region: Region;
  readonly #signal: AbortSignal;
  readonly #parts: CellsParts;
  /** In the order in which they are asked. */
  readonly #names: string[];
  readonly #startedMs: number;
  #asked = 0;
  #losses = 0;
  #isSpilled = false;

  constructor(request: CellRequest, region: Region, signal: AbortSignal, parts: CellsParts) {
    this.request = request;
    this.#region = region;
    this.#signal = signal;
    this.#parts = parts;
    this.#names = cellsOf(request.admitted.tenant, region, parts.cellsPerRegion);
    this.#startedMs = parts.now();
  }

  /** The client has disconnected. */
  get isAbandoned(): boolean {
    return this.#signal.aborted;
  }

  /**
   * Resolves to the response of the first cell that takes the request. Rejects with the ServiceError of a refusal, or with
   * another Error when too many cells were lost.
   */
  async begin(): Promise<Response> {
    for (;;) {
      try {
        return await this.#ask(null);
      } catch (thrown) {
        if (!(await this.#mayAskNext(thrown))) throw thrown;
      }
    }
  }

  /**
   * Asks the next cell after one was lost in the middle of its answer, for `cause`. The response has the rest after `cursor`, or
   * the whole answer if `cursor` is null. Rejects as `begin` does.
   */
  async resume(cursor: StreamCursor | null, cause: unknown): Promise<Response> {
    for (let thrown = cause; ; ) {
      if (!(await this.#mayAskNext(thrown))) throw thrown;
      try {
        return await this.#ask(cursor);
      } catch (error) {
        thrown = error;
      }
    }
  }

  async #ask(cursor: StreamCursor | null): Promise<Response> {
    const { namespace, now } = this.#parts;
    const elapsedMs = now() - this.#startedMs;
    const request = this.#losses === 0 ? this.request : resumedRequest(this.request, this.#losses, cursor, elapsedMs);
    const cell = namespace(this.#names[this.#asked++ % this.#names.length], this.#region);
    const response = await cell.fetch(cellUrl, {
      method: "POST",
      body: JSON.stringify(request),
      signal: this.#signal,
    });
    if (!response.ok) throw await readRefusal(response);
    const { headers } = response;
    return headers.has("content-length") ? new Response(await response.arrayBuffer(), { headers }) : response;
  }

  /** Whether another cell may be asked after a failure. Resolves when it is time to ask it. */
  async #mayAskNext(thrown: unknown): Promise<boolean> {
    if (this.#signal.aborted) return false;
    if (isNotTaken(thrown)) {
      const isFirst = !this.#isSpilled && this.#names.length > 1;
      this.#isSpilled = true;
      return isFirst;
    }
    if (thrown instanceof ServiceError || this.#losses >= restartPausesMs.length) return false;
    this.#parts.lost(this.request.admitted.requestId, thrown);
    const pauseMs = restartPausesMs[this.#losses++];
    this.#isSpilled = false;
    if (pauseMs > 0) await pause(pauseMs);
    return !this.#signal.aborted;
  }
}

/** The cell refuses it, or the platform's queue for the cell is full: such an object must not be called again at once. */
function isNotTaken(thrown: unknown): boolean {
  return thrown instanceof NotTaken || (thrown as { overloaded?: unknown } | null)?.overloaded === true;
}
