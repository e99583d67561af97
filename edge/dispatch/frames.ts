/** Reads NDJSON frames from byte streams; the framing itself is `shared/contracts/ndjson.ts`. */
import type { Frame } from "../../shared/contracts/inference.ts";
import { FrameReader } from "../../shared/contracts/ndjson.ts";
import { asFailure, unavailable } from "./call-failure.ts";

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
        throw unavailable(
          "silent",
          "The inference backend fell silent.",
          new Error(`nothing came for ${silenceMs} ms`),
        );
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

/** A wait times out between 4/5 of the limit and the limit. */
const ticks = 5;

/** Timeout for repeated waits, on one timer: a stream waits for each of its tokens. */
export class RepeatedTimeout {
  readonly #tickMs: number;
  #timer: ReturnType<typeof setInterval> | null = null;
  #passed = 0;
  #late: (() => void) | null = null;

  /** `limitMs`: timeout of each wait. Call `stop` after the last one. */
  constructor(limitMs: number) {
    this.#tickMs = limitMs / ticks;
  }

  /** Whether `work` settles in time. Rejects when it does. One wait at a time. */
  settles(work: Promise<unknown>): Promise<boolean> {
    this.#timer ??= setInterval(() => this.#tick(), this.#tickMs);
    this.#passed = 0;
    return new Promise<boolean>((resolve, reject) => {
      this.#late = () => resolve(false);
      work.then(() => resolve(true), reject);
    });
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #tick(): void {
    if (++this.#passed >= ticks) this.#late?.();
  }
}
