/**
 * How a micro-batch becomes frames: the one interface of everything on the way to the model. The backend client
 * implements it over HTTP, the micro-batching objects implement it for many requests at once.
 */
import type { BatchRequest, Frame } from "../../shared/contracts/inference.ts";

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
