/** Copies a cell's answer to the client. If the cell is lost, another cell computes the answer again (answer/sent-events.ts). */
import { joinArrays } from "../../shared/bytes.ts";
import { sseDone } from "../../shared/contracts/sse.ts";
import { ServiceError } from "../../shared/errors.ts";
import { failedMark } from "../answer/completion-writer.ts";
import { forms } from "../answer/forms.ts";
import { eventText } from "../answer/response.ts";
import { EventSplitter, isComment, PartialEvent, SentEvents, streamStart } from "../answer/sent-events.ts";
import { maxStreamBytes } from "../answer/token-count.ts";
import type { Region } from "../platform/region.ts";
import { type CellRequest, interrupted } from "./cell-request.ts";
import { CellCall, type CellsParts } from "./cells.ts";
import { ClientBody } from "./client-body.ts";

interface CellAnswer {
  response: Response;
  /** null for a complete `response`. Rejects with `cancelled` after a disconnect, else with the error that ended the answer. */
  completed: Promise<void> | null;
}

/**
 * Rejects with a refusal's ServiceError, or another Error after too many losses. Unless it throws NotTaken, the cell settles the admission.
 */
export type Cells = (request: CellRequest, region: Region, signal: AbortSignal) => Promise<CellAnswer>;

export function createCells(parts: CellsParts): Cells {
  const copies = { bytes: 0 };
  return async (request, region, signal) => {
    const call = new CellCall(request, region, signal, parts);
    const first = await call.begin();
    if (first.headers.has("content-length")) return { response: first, completed: null };
    const { readable, writable } = new IdentityTransformStream();
    const response = new Response(readable, { headers: first.headers });
    return { response, completed: copyAnswer(first, call, new ClientBody(writable), copies) };
  };
}

class CellLost extends Error {}

interface Progress {
  sent: SentEvents;
  /** The part of an unfinished event that the client has received. */
  partial: Uint8Array;
  isResumable: boolean;
}

/** Throws CellLost if the response ends before it is complete. */
type Copy = (response: Response, client: ClientBody, progress: Progress) => Promise<void>;

/** Maximum bytes of one piped stream, and of all piped streams of an isolate (128 MB). A pipe keeps a copy of what it has piped. */
const pipedBytes = { ofStream: 512 * 1024, ofAll: 32 * 2 ** 20 };

/** `copies.bytes`: sum of the maximum bytes of all streams that are being piped. */
function copyOf({ form, envelope, stream, plan, options, withEventIds }: CellRequest, copies: { bytes: number }): Copy {
  if (!stream) return copyWhole;
  if (withEventIds) return copyEvents;
  const bytes = maxStreamBytes(plan, { form, ...options }, envelope.settings);
  if (bytes === null || bytes > pipedBytes.ofStream || copies.bytes + bytes > pipedBytes.ofAll) return copyEvents;
  copies.bytes += bytes;
  return (...args) =>
    pipeStream(...args).finally(() => {
      copies.bytes -= bytes;
    });
}

async function copyAnswer(
  first: Response,
  call: CellCall,
  client: ClientBody,
  copies: { bytes: number },
): Promise<void> {
  const { stream, plan } = call.request;
  const sent = new SentEvents(call.request.resumeFrom ?? streamStart(plan.choices.length));
  const progress: Progress = { sent, partial: empty, isResumable: true };
  let copy = copyOf(call.request, copies);
  try {
    for (let response = first; ; ) {
      try {
        await copy(response, client, progress);
        break;
      } catch (thrown) {
        if (!(thrown instanceof CellLost) || !progress.isResumable || client.isGone) throw thrown;
        const hasBegun = sent.hasBegun || progress.partial.length > 0;
        response = await call.resume(hasBegun ? sent.cursor : null, thrown);
        if (stream) copy = copyEvents;
      }
    }
    // If the cell was lost between an error and [DONE], the missing bytes of [DONE] are written here.
    if (stream && !sent.isDone) await client.write(encoder.encode(sseDone).subarray(progress.partial.length));
    await client.close();
  } catch (thrown) {
    // A disconnect of the client makes the call to the cell fail, too.
    if (client.isGone || call.signal.aborted) {
      const gone = clientGone(thrown);
      client.abort(gone);
      throw gone;
    }
    const error = thrown instanceof ServiceError ? thrown : interrupted(thrown);
    // An error event cannot follow a partial event.
    if (stream && progress.partial.length === 0) {
      const { form, envelope } = call.request;
      const events = forms[form].failure(envelope, error, sent.cursor.choices[0].events);
      const last = events.map((event) => eventText(event)).join("") + sseDone;
      await client
        .write(encoder.encode(last))
        .then(() => client.close())
        .catch((cause) => {
          throw clientGone(cause);
        });
    } else client.abort(error);
    throw error;
  }
}

function clientGone(cause: unknown): ServiceError {
  return new ServiceError("cancelled", "The client disconnected.", { cause });
}

const encoder = new TextEncoder();
const empty = new Uint8Array(0);
const [lineFeed, space, failed] = ["\n", " ", failedMark].map((character) => character.charCodeAt(0));

/** A pipe's events are parsed only if the cell is lost. */
async function pipeStream(response: Response, client: ClientBody, progress: Progress): Promise<void> {
  const { sent } = progress;
  const { bytes, failure } = await client.pipe(response.body!);
  const rest = sent.addStream(bytes);
  if (sent.isDone) return;
  // The client has a part of a heartbeat, so its missing end is written here.
  if (isComment(rest)) await client.write(encoder.encode(rest.at(-1) === lineFeed ? "\n" : "\n\n"));
  else progress.partial = rest;
  if (!sent.hasFailed) throw new CellLost("the cell is lost", { cause: failure });
}

/** Copies event by event without keeping events: for long streams and for resumed streams. */
async function copyEvents(response: Response, client: ClientBody, progress: Progress): Promise<void> {
  const { sent } = progress;
  const splitter = new EventSplitter();
  const partialEvent = new PartialEvent(progress.partial);
  try {
    for await (const chunk of chunksOf(response, client)) {
      const { partial } = progress;
      const complete = splitter.push(chunk);
      const events = partial.length === 0 ? complete : partialEvent.take(complete);
      if (!events) continue;
      for (const event of events) sent.add(event);
      progress.partial = empty;
      await client.write(joinArrays(Uint8Array, events).subarray(partial.length));
    }
  } catch (thrown) {
    if (!sent.isDone && !sent.hasFailed) throw thrown;
  }
  if (sent.isDone || sent.hasFailed) return;
  throw new CellLost("the stream ended without [DONE]");
}

/** A non-streamed answer can be computed again while the client has received only white space. */
async function copyWhole(response: Response, client: ClientBody, progress: Progress): Promise<void> {
  if (response.headers.has("content-length")) return client.write(await response.bytes());
  for await (const chunk of chunksOf(response, client)) {
    if (chunk.includes(failed)) throw new Error("the answer failed in its cell");
    progress.isResumable &&= chunk.every((byte) => byte === space);
    await client.write(chunk);
  }
}

/** Throws CellLost if reading fails. Cancels the body if the loop ends early or the client disconnects. */
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
    // `cancel` rejects if the body has failed.
    reader.cancel().catch(() => {});
  }
}
