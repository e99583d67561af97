/** Server-sent events as a response body: with heartbeats, and told at once when the reader is gone. */
import { sseComment } from "../../shared/contracts/sse.ts";
import { Watch } from "../watch.ts";

/**
 * Events as they come. Where none comes for `heartbeatMs` a comment is written instead, since only a write shows that a
 * client is gone. `ended` is told the end once: whether the client was gone. No timer is left once the events have ended.
 */
export function eventStream(
  events: AsyncIterable<string>,
  heartbeatMs: number,
  ended: (isGone: boolean) => void,
): ReadableStream<Uint8Array> {
  // The runtime's own: a stream of JavaScript's takes a turn of it for each chunk.
  const { readable, writable } = new IdentityTransformStream();
  const writer = writable.getWriter();
  const watch = new Watch(heartbeatMs);
  const encoder = new TextEncoder();
  const send = async () => {
    const iterator = events[Symbol.asyncIterator]();
    for (let next = iterator.next(); ; ) {
      if (!(await watch.settles(next))) {
        await writer.write(encoder.encode(sseComment("hb")));
        continue;
      }
      const { done, value } = await next;
      if (done) break;
      await writer.write(encoder.encode(value));
      next = iterator.next();
    }
    await writer.close();
  };
  const end = (isGone: boolean) => {
    watch.stop();
    ended(isGone);
  };
  writer.closed.then(
    () => end(false),
    () => end(true),
  );
  send().catch((error) => writer.abort(error).catch(() => undefined));
  return readable;
}
