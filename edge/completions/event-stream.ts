/** Server-sent events as a response body: with heartbeats, and told at once when the reader is gone. */
import { sseComment } from "../../shared/contracts/sse.ts";

/** A silence is noticed after four fifths of the limit, or up to a fifth more. */
const ticks = 5;
const encoder = new TextEncoder();

export class EventStream {
  readonly body: ReadableStream<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #timer: ReturnType<typeof setInterval>;
  #silentTicks = 0;

  /**
   * Where nothing is written for `heartbeatMs` a comment is, since only a write shows that a client is gone, and `silent`
   * is told. `ended` is told the end once: whether the client was gone. No timer is left then.
   */
  constructor(heartbeatMs: number, { silent, ended }: { silent(): void; ended(isGone: boolean): void }) {
    // The runtime's own: a stream of JavaScript's takes a turn of it for each chunk.
    const { readable, writable } = new IdentityTransformStream();
    this.body = readable;
    this.#writer = writable.getWriter();
    this.#timer = setInterval(() => {
      if (++this.#silentTicks < ticks) return;
      this.write(sseComment("hb"));
      silent();
    }, heartbeatMs / ticks);
    const end = (isGone: boolean) => {
      clearInterval(this.#timer);
      ended(isGone);
    };
    this.#writer.closed.then(
      () => end(false),
      () => end(true),
    );
  }

  /** Never waits: whoever writes bounds what there is to write. */
  write(events: string): void {
    this.#silentTicks = 0;
    // A failed write means that the reader is gone, which `closed` reports.
    this.#writer.write(encoder.encode(events)).catch(ignore);
  }

  close(): void {
    this.#writer.close().catch(ignore);
  }

  /** Before anybody read it. */
  discard(): void {
    this.#writer.abort().catch(ignore);
  }
}

function ignore(): void {}
