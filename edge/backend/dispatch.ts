/** The interface through which a micro-batch becomes frames. */
import { type BatchRequest, errorFrame, type Frame } from "../../shared/contracts/inference.ts";
import type { ServiceError } from "../../shared/errors.ts";

/**
 * Resolves when the batch is accepted, to its frames in groups as they arrived. Each sequence gets its frames in order, and
 * exactly one `done` or `error` as the last. Rejects with a ServiceError if the batch is refused; after that, failures
 * are `error` frames.
 */
export type Dispatch = (batch: BatchRequest, signal: AbortSignal) => Promise<AsyncIterable<Frame[]>>;

/** Whether a sequence ends with this frame. */
export function isLast(frame: Frame): boolean {
  return frame.type === "done" || frame.type === "error";
}

/**
 * Ensures that every sequence of `ids` ends, whatever goes wrong with `groups`: those still open end in an error frame with
 * `failure`. A frame of an unknown or ended sequence counts as a failure of the whole stream.
 */
export async function* complete(
  groups: AsyncIterable<Frame[]>,
  ids: readonly string[],
  failure: (cause: unknown) => ServiceError,
): AsyncGenerator<Frame[]> {
  const open = new Set(ids);
  /** Valid frames of the current group. */
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
