/** The interface through which a micro-batch becomes frames. */
import type { BatchRequest, Frame } from "../../shared/contracts/inference.ts";

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
