/** The body that a client reads. It is filled by piping a stream, which runs no JavaScript for its chunks, or by writes. */
import { joinArrays } from "../../shared/join-arrays.ts";
import { pause } from "../platform/pause.ts";

/** What a pipe has written. */
export interface Piped {
  bytes: Uint8Array;
  /** Why it ended early; null where it came to its end. */
  failure: unknown;
}

export class ClientBody {
  /** True once the client has disconnected. */
  isGone = false;
  readonly #writable: WritableStream<Uint8Array>;
  #opened: WritableStreamDefaultWriter<Uint8Array> | null = null;
  #writing = Promise.resolve();

  constructor(writable: WritableStream<Uint8Array>) {
    this.#writable = writable;
  }

  /**
   * Pipes a stream, before anything else is written, and returns a copy of its bytes. Resolves when the stream has ended or failed.
   * Rejects and cancels the stream if the client has disconnected.
   */
  async pipe(stream: ReadableStream<Uint8Array>): Promise<Piped> {
    // The copy is not read yet: that would take more from the stream than the client has taken.
    const [piped, copy] = stream.tee();
    try {
      await piped.pipeTo(this.#writable, { preventClose: true, preventAbort: true });
    } catch (failure) {
      const bytes = await bytesUntilFailure(copy);
      if (bytes) return { bytes, failure };
      this.isGone = true;
      throw failure;
    }
    return { bytes: await new Response(copy).bytes(), failure: null };
  }

  /**
   * Resolves when the client has read the previous write. Waiting for this one would delay the first token of a stream behind
   * tokens of other streams. Rejects if the client has disconnected.
   */
  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.length === 0) return;
    await this.#writing;
    this.#writing = this.#writer.write(bytes);
    this.#writing.catch(() => {
      this.isGone = true;
    });
  }

  /** Calls `left` when the client disconnects; only a write notices that. */
  whenGone(left: () => void): void {
    this.#writer.closed.catch(left);
  }

  /** Resolves when the client has read everything or disconnected during the last write. Rejects if it had disconnected before. */
  async close(): Promise<void> {
    await this.#writing;
    await this.#writer.close().catch(() => {});
  }

  abort(reason: Error): void {
    this.#writer.abort(reason).catch(() => {});
  }

  get #writer(): WritableStreamDefaultWriter<Uint8Array> {
    if (!this.#opened) {
      this.#opened = this.#writable.getWriter();
      this.#opened.closed.catch(() => {
        this.isGone = true;
      });
    }
    return this.#opened;
  }
}

/** Bytes per read of a copy. */
const readBytes = 64 * 1024;

/** Milliseconds to wait for a failure of the stream: the copy of a failed stream reports it directly behind the last byte. */
const failureMs = 1000;

/**
 * The copy's bytes if the stream has failed. null if the stream has not: then the pipe failed because the client disconnected, which
 * the runtime reports in the same way, and the copy is cancelled.
 */
async function bytesUntilFailure(copy: ReadableStream<Uint8Array>): Promise<Uint8Array | null> {
  const reader = copy.getReader({ mode: "byob" });
  const parts: Uint8Array[] = [];
  try {
    for (;;) {
      const { value } = await reader.read(new Uint8Array(readBytes));
      if (value) parts.push(value);
      // That was all that the pipe has read.
      if (!value || value.length < readBytes) break;
    }
    await Promise.race([reader.read(new Uint8Array(1)), pause(failureMs)]);
  } catch {
    return joinArrays(Uint8Array, parts);
  }
  reader.cancel().catch(() => {});
  return null;
}
