/**
 * How a micro-batch becomes frames: the one interface of everything on the way to the model. The backend client
 * implements it over HTTP, the micro-batching objects implement it for many requests at once.
 */
import { type BatchRequest, errorFrame, type Frame } from "../../shared/contracts/inference.ts";
import type { ServiceError } from "../../shared/errors.ts";

/**
 * Resolves when the batch is accepted, to its frames, those together that came together: of each sequence its frames in
 * order, ending in exactly one `done` or `error`. Rejects with a ServiceError when the batch is refused. Once accepted,
 * failures are frames.
 */
export type Dispatch = (batch: BatchRequest, signal: AbortSignal) => Promise<AsyncIterable<Frame[]>>;

/** Whether a sequence ends with this frame. */
export function isLast(frame: Frame): boolean {
  return frame.type === "done" || frame.type === "error";
}

/**
 * Holds a stream of frames to a Dispatch's promise: whatever goes wrong with `groups`, every id of `ids` still ends.
 * A frame of an unknown or finished sequence is the sender's mistake and ends the others in `failure` too.
 */
export async function* complete(
  groups: AsyncIterable<Frame[]>,
  ids: readonly string[],
  failure: (cause: unknown) => ServiceError,
): AsyncGenerator<Frame[]> {
  const open = new Set(ids);
  /** Of the group that is looked at. */
  let sound: Frame[] = [];
  let cause: unknown = new Error("the stream of frames ended early");
  try {
    for await (const group of groups) {
      for (const frame of group) {
        if (!open.has(frame.id)) throw new Error(`a ${frame.type} frame of ${frame.id}, which is unknown or has ended`);
        if (isLast(frame)) open.delete(frame.id);
        sound.push(frame);
      }
      yield sound;
      sound = [];
      if (open.size === 0) return;
    }
  } catch (error) {
    cause = error;
  }
  yield [...sound, ...Array.from(open, (id) => errorFrame(id, failure(cause)))];
}
