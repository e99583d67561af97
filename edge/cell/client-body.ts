/** A client's response body. A pipe fills it first, without JavaScript for each chunk; writes follow. */
import { joinArrays } from "../../shared/bytes.ts";
import { pause } from "../platform/clock.ts";

export class ClientBody {
  isGone = false;
  readonly #writable: WritableStream<Uint8Array>;
  #opened: WritableStreamDefaultWriter<Uint8Array> | null = null;
  #writing = Promise.resolve();

  constructor(writable: WritableStream<Uint8Array>) {
    this.#writable = writable;
  }

  /** Must precede any `write`. `failure` is null unless the stream failed. If the client disconnects, cancels the stream and rejects. */
  async pipe(stream: ReadableStream<Uint8Array>) {
    // The copy is read only afterwards: reading it now would read the stream faster than the client does.
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

  /** Resolves when the client has read the previous write; waiting for this write would delay a first token. Rejects after a disconnect. */
  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.length === 0) return;
    await this.#writing;
    this.#writing = this.#writer.write(bytes);
    this.#writing.catch(() => {
      this.isGone = true;
    });
  }

  whenGone(onGone: () => void): void {
    this.#writer.closed.catch(onGone);
  }

  /** Resolves when the client has read everything or disconnects during the last write. Rejects after an earlier disconnect. */
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

const readBytes = 64 * 1024;

/** Time in which the copy of a failed stream must report the failure after its last byte. */
const failureMs = 1000;

/**
 * Finds out why a pipe failed, because the runtime does not say. If the stream failed, its copy fails, too: returns the copy's bytes. If
 * the client disconnected, the copy does not fail: cancels the copy and returns null.
 */
async function bytesUntilFailure(copy: ReadableStream<Uint8Array>): Promise<Uint8Array | null> {
  const reader = copy.getReader({ mode: "byob" });
  const parts: Uint8Array[] = [];
  try {
    for (;;) {
      const { value } = await reader.read(new Uint8Array(readBytes));
      if (value) parts.push(value);
      // A short read has reached the last byte that the pipe has read.
      if (!value || value.length < readBytes) break;
    }
    await Promise.race([reader.read(new Uint8Array(1)), pause(failureMs)]);
  } catch {
    return joinArrays(Uint8Array, parts);
  }
  reader.cancel().catch(() => {});
  return null;
}
