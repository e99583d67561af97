/** Reads NDJSON frames from byte streams; the framing itself is `shared/contracts/ndjson.ts`. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader } from "../../shared/contracts/ndjson.ts";
import { RepeatedTimeout } from "../platform/repeated-timeout.ts";

/** No byte arrived for too long, not even a heartbeat. */
export class SilenceError extends Error {
  override readonly name = "SilenceError";
}

/**
 * Reads a backend's frames, grouped by chunk. On an error it throws the result of `failure`, which gets a SilenceError if no
 * byte arrives for `silenceMs` (the time the caller spends on a chunk does not count), or the error of an invalid frame.
 */
export async function* frameGroupsOf(
  body: ReadableStream<Uint8Array>,
  silenceMs: number,
  failure: (cause: unknown) => Error,
): AsyncGenerator<Frame[]> {
  const reader = new FrameReader();
  const source = body.getReader();
  const timeout = new RepeatedTimeout(silenceMs);
  try {
    for (;;) {
      const next = source.read();
      if (!(await timeout.settles(next))) throw new SilenceError(`nothing came for ${silenceMs} ms`);
      const { done, value } = await next;
      if (done) break;
      const frames = reader.push(value);
      if (frames.length > 0) yield frames;
    }
    reader.end();
  } catch (cause) {
    throw failure(cause);
  } finally {
    timeout.stop();
    // Cancelling a failed body rejects.
    source.cancel().catch(() => undefined);
  }
}
