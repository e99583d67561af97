/** Reads NDJSON frames from byte streams; the framing itself is `shared/contracts/ndjson.ts`. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader } from "../../shared/contracts/ndjson.ts";
import { RepeatedTimeout } from "../platform/repeated-timeout.ts";
import { asFailure, away } from "./call-failure.ts";

/**
 * Reads a backend's frames, grouped by chunk. Throws a CallFailure for an invalid frame, and where no byte, not even a heartbeat,
 * arrives for `silenceMs`; the time the caller spends on a chunk does not count.
 */
export async function* frameGroupsOf(body: ReadableStream<Uint8Array>, silenceMs: number): AsyncGenerator<Frame[]> {
  const reader = new FrameReader();
  const source = body.getReader();
  const timeout = new RepeatedTimeout(silenceMs);
  try {
    for (;;) {
      const next = source.read();
      if (!(await timeout.settles(next))) {
        throw away("silent", "The inference backend fell silent.", new Error(`nothing came for ${silenceMs} ms`));
      }
      const { done, value } = await next;
      if (done) break;
      const frames = reader.push(value);
      if (frames.length > 0) yield frames;
    }
    reader.end();
  } catch (cause) {
    throw asFailure(cause);
  } finally {
    timeout.stop();
    // Cancelling a failed body rejects.
    source.cancel().catch(() => undefined);
  }
}
