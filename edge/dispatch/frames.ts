/** Reads NDJSON from a backend's answer, and gives up an answer that falls silent. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader, LineSplitter } from "../../shared/contracts/ndjson.ts";
import { asFailure, unavailable } from "./call-failure.ts";

/** The timer's ticks within `silenceMs`. So a stream is given up after 4/5 of this time to all of it. */
const ticks = 5;

/** Frames by chunk. Throws a CallFailure for an invalid frame, and after `silenceMs` without a byte while the caller waits. */
export function frameGroupsOf(body: ReadableStream<Uint8Array>, silenceMs: number): AsyncGenerator<Frame[]> {
  return groupsOf(body, silenceMs, new FrameReader());
}

/** The lines of an answer that are not blank. Throws as `frameGroupsOf` does. A last line without a line end is dropped. */
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
  // Ends the pending read. Rejects if the body has failed.
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
