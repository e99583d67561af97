/** Reads NDJSON from a backend's answer. An answer that falls silent becomes a CallFailure. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader, LineSplitter } from "../../shared/contracts/ndjson.ts";
import { asFailure, unavailable } from "./call-failure.ts";

/** Timer ticks within `silenceMs`. A silent stream fails after 4/5 of `silenceMs` at the earliest. */
const ticks = 5;

/** Yields the frames of each chunk. Throws a CallFailure for an invalid frame, or after a wait of `silenceMs` without a byte. */
export function frameGroupsOf(body: ReadableStream<Uint8Array>, silenceMs: number): AsyncGenerator<Frame[]> {
  return groupsOf(body, silenceMs, new FrameReader());
}

/** Yields the lines of each chunk that are not blank. Throws as `frameGroupsOf` does. Drops an unfinished last line. */
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
  // Cancelling ends the pending read. `source.cancel` rejects if the body has failed, but the read already reports that failure.
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
