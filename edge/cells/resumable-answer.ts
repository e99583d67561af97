/**
 * Passes a cell's answer on to the client, and goes on with another cell's when that one is lost, so that the client sees one
 * unbroken answer. Takes out the marks (completions/marks.ts) that tell what the client has.
 */
import { sseDone, sseEvent } from "../../shared/contracts/sse.ts";
import { envelopeOf, ServiceError } from "../../shared/errors.ts";
import { type CellRequest, interrupted } from "../completions/cell-request.ts";
import { cutMark, endMark, MarkReader, marksHeader, noMark } from "../completions/marks.ts";
import type { Region } from "../platform/region.ts";
import { CellCall, type CellsParts } from "./cells.ts";

export interface CellAnswer {
  response: Response;
  /**
   * Settles when a body that goes on has ended; null for a complete one. Rejects with `cancelled` if the client has gone, or
   * with the ServiceError that ended the answer after all cells that were tried.
   */
  completed: Promise<void> | null;
}

/**
 * Sends a request to a cell of the region. Resolves to the answer as its client gets it, `content-type` and `server-timing`
 * included: whole, or once its stream has begun; from then on the cell settles what was admitted. Rejects with the
 * ServiceError that ends it before, which the cell has settled unless it is a NotTaken, or with another Error if too many
 * cells were lost.
 */
export type Cells = (request: CellRequest, region: Region, signal: AbortSignal) => Promise<CellAnswer>;

export function createCells(parts: CellsParts): Cells {
  return async (request, region, signal) => {
    const call = new CellCall(request, region, signal, parts);
    const first = await call.begin();
    if (first.headers.has("content-length")) return { response: unmarked(first, first.body), completed: null };
    const { readable, writable } = new IdentityTransformStream();
    return { response: unmarked(first, readable), completed: passOn(first, call, new Client(writable)) };
  };
}

/** A response with these headers and another body, without the header that only the Worker reads. */
function unmarked({ headers }: Response, body: Response["body"]): Response {
  const response = new Response(body, { headers });
  response.headers.delete(marksHeader);
  return response;
}

/** A cell's answer failed before its end, or ended without one. */
class CellLost extends Error {}

/**
 * The body that a client reads. One write may be pending while the next bytes are read from the cell: to wait for each write
 * makes the first token of a stream wait longer for those of other streams.
 */
class Client {
  /** True once it has disconnected. */
  isGone = false;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #writing = Promise.resolve();

  constructor(writable: WritableStream<Uint8Array>) {
    this.#writer = writable.getWriter();
    this.whenGone(() => {
      this.isGone = true;
    });
  }

  /** Resolves when it has taken the bytes of the write before. Rejects if it has disconnected. */
  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.length === 0) return;
    await this.#writing;
    this.#writing = this.#writer.write(bytes);
    this.#writing.catch(() => {
      this.isGone = true;
    });
  }

  /** Calls `left` when it disconnects; only a write notices that. */
  whenGone(left: () => void): void {
    this.#writer.closed.catch(left);
  }

  /** Resolves when it has taken everything. Rejects if it has disconnected before. */
  async close(): Promise<void> {
    await this.#writing;
    await this.#writer.close().catch(() => {});
  }

  abort(reason: Error): void {
    this.#writer.abort(reason).catch(() => {});
  }
}

async function passOn(first: Response, call: CellCall, client: Client): Promise<void> {
  const progress: Progress = { cursor: null, isResumable: true };
  try {
    for (let response = first; ; ) {
      try {
        await (call.isStream ? passStream(response, client, progress) : passWhole(response, client, progress));
        break;
      } catch (thrown) {
        if (!(thrown instanceof CellLost) || !progress.isResumable || client.isGone) throw thrown;
        response = await call.resume(progress.cursor, thrown);
      }
    }
    await client.close();
  } catch (thrown) {
    // A client that disconnects takes the way to the cell with it.
    if (client.isGone || call.isAbandoned) {
      const gone = clientGone(thrown);
      client.abort(gone);
      throw gone;
    }
    const error = thrown instanceof ServiceError ? thrown : interrupted(thrown);
    if (call.isStream) {
      await writeError(error, client).catch((cause) => {
        throw clientGone(cause);
      });
    } else client.abort(error);
    throw error;
  }
}

/** Ends a stream in an error event. Rejects if the client has disconnected. */
async function writeError(error: ServiceError, client: Client): Promise<void> {
  await client.write(encoder.encode(sseEvent(JSON.stringify(envelopeOf(error))) + sseDone));
  await client.close();
}

function clientGone(cause: unknown): ServiceError {
  return new ServiceError("cancelled", "The client disconnected.", { cause });
}

const encoder = new TextEncoder();

interface Progress {
  /** How far the stream was written to the client; null before its first event. */
  cursor: string | null;
  /** False once the client has something that no other cell goes on from. */
  isResumable: boolean;
}

async function passStream(response: Response, client: Client, progress: Progress): Promise<void> {
  if (!response.headers.has(marksHeader)) {
    progress.isResumable = false;
    for await (const chunk of chunksOf(response, client)) await client.write(chunk);
    return;
  }
  const marks = new MarkReader();
  let isComplete = false;
  try {
    for await (const chunk of chunksOf(response, client)) {
      for (const { bytes, mark } of marks.push(chunk)) {
        if (mark !== cutMark) await client.write(bytes);
        if (mark === endMark) isComplete = true;
        else if (mark !== cutMark && mark !== noMark) progress.cursor = mark;
      }
    }
  } catch (thrown) {
    if (!isComplete) throw thrown;
  }
  if (!isComplete) throw new CellLost("the stream ended without its end mark");
}

/** A whole answer can be computed again until the first byte of its JSON: before that only white space is sent. */
async function passWhole(response: Response, client: Client, progress: Progress): Promise<void> {
  if (response.headers.has("content-length")) return client.write(await response.bytes());
  for await (const chunk of chunksOf(response, client)) {
    if (chunk.includes(0)) throw new Error("the answer failed in its cell");
    progress.isResumable &&= chunk.every((byte) => byte === space);
    await client.write(chunk);
  }
}

const space = 32;

/** Throws CellLost where reading fails. Leaving the loop cancels the body, and so does a client that disconnects. */
async function* chunksOf(response: Response, client: Client): AsyncGenerator<Uint8Array> {
  const reader = response.body!.getReader();
  client.whenGone(() => void reader.cancel().catch(() => {}));
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause) => {
        throw new CellLost("the cell is lost", { cause });
      });
      if (done) return;
      yield value;
    }
  } finally {
    // Of a body that failed nothing is left to cancel.
    reader.cancel().catch(() => {});
  }
}
