/** Server-sent events as a response body: with heartbeats, and told at once when the reader is gone. */
import { sseComment } from "../../shared/contracts/sse.ts";
import { Watch } from "../watch.ts";

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
  const watch = new Watch(heartbeatMs);
  let next: Promise<IteratorResult<string>> | null = null;
  return new ReadableStream({
    async pull(controller) {
      next ??= iterator.next();
      try {
        if (!(await watch.settles(next))) {
          controller.enqueue(encoder.encode(sseComment("hb")));
          return;
        }
      } catch (error) {
        watch.stop();
        throw error;
      }
      const { done, value } = await next;
      next = null;
      if (!done) {
        controller.enqueue(encoder.encode(value));
        return;
      }
      watch.stop();
      controller.close();
    },
    cancel() {
      watch.stop();
      onCancel();
    },
  });
}
