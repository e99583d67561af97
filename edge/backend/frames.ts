/** NDJSON frames over the runtime's byte streams; the framing itself is `shared/contracts/ndjson.ts`. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader } from "../../shared/contracts/ndjson.ts";
import { Watch } from "../watch.ts";

/** Nothing came for too long, not even a blank line. */
export class SilenceError extends Error {
  override readonly name = "SilenceError";
}

/**
 * Reads a backend's frames, those of one chunk together. Throws what `failure` makes of an Error: one for anything that
 * is no frame, a SilenceError where no byte comes for `silenceMs`; the time that the caller takes for a chunk does not
 * count.
 */
export async function* frameGroupsOf(
  body: ReadableStream<Uint8Array>,
  silenceMs: number,
  failure: (cause: unknown) => Error,
): AsyncGenerator<Frame[]> {
  const reader = new FrameReader();
  const source = body.getReader();
  const watch = new Watch(silenceMs);
  try {
    for (;;) {
      const next = source.read();
      if (!(await watch.settles(next))) throw new SilenceError(`nothing came for ${silenceMs} ms`);
      const { done, value } = await next;
      if (done) break;
      const frames = reader.push(value);
      if (frames.length > 0) yield frames;
    }
    reader.end();
  } catch (cause) {
    throw failure(cause);
  } finally {
    watch.stop();
    // Of a body that failed nothing is left to cancel.
    source.cancel().catch(() => undefined);
  }
}
