/** Server-sent events as a response body: with heartbeats, and told at once when the reader is gone. */
import { sseComment } from "../../shared/contracts/sse.ts";
import { settlesWithin } from "../settles-within.ts";

/**
 * Events as they come. Where none comes for `heartbeatMs` a comment is written instead, since only a write shows that a
 * client is gone. `onCancel` runs then. No timer is left once the events have ended.
 */
export function eventStream(
  events: AsyncIterable<string>,
  heartbeatMs: number,
  onCancel: () => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const iterator = events[Symbol.asyncIterator]();
  let next: Promise<IteratorResult<string>> | null = null;
  return new ReadableStream({
    async pull(controller) {
      next ??= iterator.next();
      if (!(await settlesWithin(next, heartbeatMs))) {
        controller.enqueue(encoder.encode(sseComment("hb")));
        return;
      }
      const { done, value } = await next;
      next = null;
      if (done) controller.close();
      else controller.enqueue(encoder.encode(value));
    },
    cancel: onCancel,
  });
}
