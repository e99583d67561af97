/** Reads NDJSON frames from byte streams; the framing itself is `shared/contracts/ndjson.ts`. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader, LineSplitter } from "../../shared/contracts/ndjson.ts";
import { asFailure, unavailable } from "./call-failure.ts";

/** Silence is counted in ticks of one timer, so a stream is given up between 4/5 of the limit and the limit. */
const ticks = 5;

/**
 * Reads a backend's frames, grouped by chunk. Throws a CallFailure for an invalid frame, and where no byte, not even a heartbeat,
 * arrives for `silenceMs`; the time the caller spends on a chunk does not count.
 */
export function frameGroupsOf(body: ReadableStream<Uint8Array>, silenceMs: number): AsyncGenerator<Frame[]> {
  return groupsOf(body, silenceMs, new FrameReader());
}

/** As frameGroupsOf does, the lines that are not blank, without the last one if it has no end. */
export function linesOf(body: ReadableStream<Uint8Array>, silenceMs: number): AsyncGenerator<string[]> {
  const lines = new LineSplitter();
  const push = (chunk: Uint8Array) => lines.push(chunk).filter((line) => line.trim() !== "");
  return groupsOf(body, silenceMs, { push, end: () => undefined });
}

async function* groupsOf<T>(
  body: ReadableStream<Uint8Array>,
  silenceMs: number,
  reader: { push(chunk: Uint8Array): T[]; end(): void },
): AsyncGenerator<T[]> {
  const source = body.getReader();
  const silent = new Error(`nothing came for ${silenceMs} ms`);
  let isReading = false;
  let silentTicks = 0;
  // Cancelling ends the pending read. It rejects if the body has failed.
  const cancel = () => void source.cancel(silent).catch(() => undefined);
  const timer = setInterval(() => {
    if (isReading && ++silentTicks === ticks) cancel();
  }, silenceMs / ticks);
  try {
    for (;;) {
      silentTicks = 0;
      isReading = true;
      const { done, value } = await source.read();
      isReading = false;
      if (done) break;
      const group = reader.push(value);
      if (group.length > 0) yield group;
    }
    if (silentTicks >= ticks) throw silent;
    reader.end();
  } catch (cause) {
    throw silentTicks >= ticks ? unavailable("silent", "The inference backend fell silent.", silent) : asFailure(cause);
  } finally {
    clearInterval(timer);
    cancel();
  }
}
