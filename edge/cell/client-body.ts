/** The response body of a client. It is filled by piping a stream, which runs no JavaScript for its chunks, and then by writes. */
import { joinArrays } from "../../shared/bytes.ts";
import { pause } from "../platform/clock.ts";

export interface Piped {
  /** All bytes that the client received. */
  bytes: Uint8Array;
  /** Why the stream failed; null if it ended. */
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

  /** Pipes a stream before anything is written, until it ends or fails. Rejects and cancels it if the client disconnects. */
  async pipe(stream: ReadableStream<Uint8Array>): Promise<Piped> {
    // Reading the copy now would read the stream ahead of the client.
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
   * Resolves when the client has read the previous write: awaiting this one would delay a stream's first token. Rejects if the
   * client has disconnected.
   */
  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.length === 0) return;
    await this.#writing;
    this.#writing = this.#writer.write(bytes);
    this.#writing.catch(() => {
      this.isGone = true;
    });
  }

  /** Calls `onGone` when the client disconnects, which only a write detects. */
  whenGone(onGone: () => void): void {
    this.#writer.closed.catch(onGone);
  }

  /** Resolves when the client has read everything, or disconnects during the last write. Rejects if it disconnected before. */
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

/** Maximum wait for the copy of a failed stream to report the failure after its last byte, in milliseconds. */
const failureMs = 1000;

/**
 * Tells why a pipe failed, which the runtime does not. Returns the copy's bytes if the stream failed; cancels the copy and returns
 * null if the client disconnected.
 */
async function bytesUntilFailure(copy: ReadableStream<Uint8Array>): Promise<Uint8Array | null> {
  const reader = copy.getReader({ mode: "byob" });
  const parts: Uint8Array[] = [];
  try {
    for (;;) {
      const { value } = await reader.read(new Uint8Array(readBytes));
      if (value) parts.push(value);
      // The pipe has read no more.
      if (!value || value.length < readBytes) break;
    }
    await Promise.race([reader.read(new Uint8Array(1)), pause(failureMs)]);
  } catch {
    return joinArrays(Uint8Array, parts);
  }
  reader.cancel().catch(() => {});
  return null;
}
