/** NDJSON frames over the runtime's byte streams; the framing itself is `shared/contracts/ndjson.ts`. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader } from "../../shared/contracts/ndjson.ts";

/** Reads frames as they arrive; leaving the loop cancels the body. Throws an Error for anything that is no frame. */
export async function* framesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const reader = new FrameReader();
  for await (const chunk of body) yield* reader.push(chunk);
  reader.end();
}

/** Frames of several batches, as they come. */
export async function* merged(sources: readonly AsyncIterable<Frame>[]): AsyncGenerator<Frame> {
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const next = (i: number) => iterators[i].next().then((result) => ({ i, result }));
  const pending = new Map(iterators.map((_, i) => [i, next(i)]));
  while (pending.size > 0) {
    const { i, result } = await Promise.race(pending.values());
    if (result.done) pending.delete(i);
    else {
      pending.set(i, next(i));
      yield result.value;
    }
  }
}
