/**
 * Copies a cell's answer to the client, and continues with another cell's when that cell is lost, so that the client gets one
 * unbroken answer. The bytes that the client has received say where to continue (completions/sent-events.ts).
 */
import { sseDone, sseEvent } from "../../shared/contracts/sse.ts";
import { envelopeOf, ServiceError } from "../../shared/errors.ts";
import { joinArrays } from "../../shared/join-arrays.ts";
import { failedMark } from "../answer/completion-writer.ts";
import { BegunEvent, EventSplitter, isComment, SentEvents } from "../answer/sent-events.ts";
import { mostStreamBytes } from "../answer/token-count.ts";
import type { Region } from "../platform/region.ts";
import { type CellRequest, interrupted } from "./cell-request.ts";
import { CellCall, type CellsParts } from "./cells.ts";
import { ClientBody } from "./client-body.ts";

export interface CellAnswer {
  response: Response;
  /**
   * Settles when a body that is still being written has ended; null for a complete one. Rejects with `cancelled` if the client has gone, or
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
  const kept = { bytes: 0 };
  return async (request, region, signal) => {
    const call = new CellCall(request, region, signal, parts);
    const first = await call.begin();
    if (first.headers.has("content-length")) return { response: first, completed: null };
    const { readable, writable } = new IdentityTransformStream();
    const response = new Response(readable, { headers: first.headers });
    return { response, completed: passOn(first, call, new ClientBody(writable), kept) };
  };
}

/** A cell's answer failed before its end, or ended without one. */
class CellLost extends Error {}

/** What the client has received of an answer. */
interface Progress {
  sent: SentEvents;
  /** Part of an event behind `sent`. */
  begun: Uint8Array;
  /** True while another cell could still resume this answer. */
  isResumable: boolean;
}

type Pass = (response: Response, client: ClientBody, progress: Progress) => Promise<void>;

/**
 * Maximum bytes of a stream that the Worker copies, and of all copied streams of an isolate together (an isolate has 128 MB). A stream
 * counts with the maximum that it may have, until it has ended.
 */
const keptBytes = { ofStream: 512 * 1024, ofAll: 32 * 2 ** 20 };

/** How the first cell's answer is copied to the client. `kept.bytes`: the maximum bytes of all copied streams. */
function passOf({ stream, plan, options }: CellRequest, kept: { bytes: number }): Pass {
  if (!stream) return passWhole;
  const bytes = mostStreamBytes(plan, options);
  if (bytes === null || bytes > keptBytes.ofStream || kept.bytes + bytes > keptBytes.ofAll) return passByEvents;
  kept.bytes += bytes;
  return (...passed) =>
    passNatively(...passed).finally(() => {
      kept.bytes -= bytes;
    });
}

async function passOn(first: Response, call: CellCall, client: ClientBody, kept: { bytes: number }): Promise<void> {
  const { stream, plan } = call.request;
  const progress: Progress = { sent: new SentEvents(plan.choices.length), begun: nothing, isResumable: true };
  const { sent } = progress;
  let pass = passOf(call.request, kept);
  try {
    for (let response = first; ; ) {
      try {
        await pass(response, client, progress);
        break;
      } catch (thrown) {
        if (!(thrown instanceof CellLost) || !progress.isResumable || client.isGone) throw thrown;
        const hasBegun = sent.hasBegun || progress.begun.length > 0;
        response = await call.resume(hasBegun ? sent.cursor : null, thrown);
        if (stream) pass = passByEvents;
      }
    }
    // Of an error the last bytes may be lost.
    if (stream && !sent.isDone) await client.write(encoder.encode(sseDone).subarray(progress.begun.length));
    await client.close();
  } catch (thrown) {
    // When the client disconnects, the call of the cell fails, too.
    if (client.isGone || call.isAbandoned) {
      const gone = clientGone(thrown);
      client.abort(gone);
      throw gone;
    }
    const error = thrown instanceof ServiceError ? thrown : interrupted(thrown);
    // An error in the middle of an event would be part of it.
    if (stream && progress.begun.length === 0) {
      await writeError(error, client).catch((cause) => {
        throw clientGone(cause);
      });
    } else client.abort(error);
    throw error;
  }
}

/** Ends a stream in an error event. Rejects if the client has disconnected. */
async function writeError(error: ServiceError, client: ClientBody): Promise<void> {
  await client.write(encoder.encode(sseEvent(JSON.stringify(envelopeOf(error))) + sseDone));
  await client.close();
}

function clientGone(cause: unknown): ServiceError {
  return new ServiceError("cancelled", "The client disconnected.", { cause });
}

const encoder = new TextEncoder();
const nothing = new Uint8Array(0);
const [lineFeed, space, failed] = ["\n", " ", failedMark].map((character) => character.charCodeAt(0));

/** Pipes a stream without running JavaScript for each chunk. Its events are parsed only if the cell is lost. */
async function passNatively(response: Response, client: ClientBody, progress: Progress): Promise<void> {
  const { sent } = progress;
  const { bytes, failure } = await client.pipe(response.body!);
  const rest = sent.addStream(bytes);
  if (sent.isDone) return;
  if (isComment(rest)) await client.write(encoder.encode(rest.at(-1) === lineFeed ? "\n" : "\n\n"));
  else progress.begun = rest;
  if (!sent.hasFailed) throw new CellLost("the cell is lost", { cause: failure });
}

/** Copies a stream event by event without keeping any; also the continuation that another cell sends. */
async function passByEvents(response: Response, client: ClientBody, progress: Progress): Promise<void> {
  const { sent } = progress;
  const splitter = new EventSplitter();
  const wanted = new BegunEvent(progress.begun);
  try {
    for await (const chunk of chunksOf(response, client)) {
      const { begun } = progress;
      const complete = splitter.push(chunk);
      const events = begun.length === 0 ? complete : wanted.take(complete);
      if (!events) continue;
      for (const event of events) sent.add(event);
      progress.begun = nothing;
      await client.write(joinArrays(Uint8Array, events).subarray(begun.length));
    }
  } catch (thrown) {
    if (!sent.isDone && !sent.hasFailed) throw thrown;
  }
  if (sent.isDone || sent.hasFailed) return;
  throw new CellLost("the stream ended without [DONE]");
}

/** Copies a non-streamed answer. It can be resumed until the first byte of its JSON: before that only white space is sent. */
async function passWhole(response: Response, client: ClientBody, progress: Progress): Promise<void> {
  if (response.headers.has("content-length")) return client.write(await response.bytes());
  for await (const chunk of chunksOf(response, client)) {
    if (chunk.includes(failed)) throw new Error("the answer failed in its cell");
    progress.isResumable &&= chunk.every((byte) => byte === space);
    await client.write(chunk);
  }
}

/** Throws CellLost if reading fails. Cancels the body when the loop ends early or the client disconnects. */
async function* chunksOf(response: Response, client: ClientBody): AsyncGenerator<Uint8Array> {
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
