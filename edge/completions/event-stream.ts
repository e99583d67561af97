/** Server-sent events as response bodies: with heartbeats, and told at once when the reader is gone. */
import { sseComment } from "../../shared/contracts/sse.ts";

/** How often streams are looked at. */
const tickMs = 50;

interface StreamEvents {
  /** A heartbeat was written. */
  silent(): void;
  /** The end, told once: whether the client was gone. */
  ended(isGone: boolean): void;
}

/** The streams of one object, on one timer, which runs while there are any. */
export class EventStreams {
  readonly #tenants = new Map<string, Set<EventStream>>();
  #timer: ReturnType<typeof setInterval> | null = null;

  /** A tenant's. */
  openOf(tenant: string): number {
    return this.#tenants.get(tenant)?.size ?? 0;
  }

  /** Where nothing is written for `heartbeatMs` a comment is, since only a write shows that a client is gone. */
  open(tenant: string, heartbeatMs: number, events: StreamEvents): EventStream {
    const streams = this.#tenants.get(tenant) ?? new Set();
    this.#tenants.set(tenant, streams);
    const stream = new EventStream(heartbeatMs, {
      silent: events.silent,
      ended: (isGone) => {
        streams.delete(stream);
        if (streams.size === 0) this.#tenants.delete(tenant);
        if (this.#tenants.size === 0) this.#stop();
        events.ended(isGone);
      },
    });
    streams.add(stream);
    this.#timer ??= setInterval(() => this.#tick(), tickMs);
    return stream;
  }

  #tick(): void {
    for (const streams of this.#tenants.values()) for (const stream of streams) stream.tick();
  }

  #stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }
}

const encoder = new TextEncoder();

export class EventStream {
  readonly body: ReadableStream<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #parts: StreamEvents;
  readonly #heartbeatTicks: number;
  #silentTicks = 0;

  constructor(heartbeatMs: number, parts: StreamEvents) {
    // The runtime's own: a stream of JavaScript's takes a turn of it for each chunk.
    const { readable, writable } = new IdentityTransformStream();
    this.body = readable;
    this.#writer = writable.getWriter();
    this.#parts = parts;
    // A tick may come right after a write.
    this.#heartbeatTicks = Math.max(1, Math.floor(heartbeatMs / tickMs) - 1);
    this.#writer.closed.then(
      () => parts.ended(false),
      () => parts.ended(true),
    );
  }

  /**
   * Never waits: whoever writes bounds what there is to write. A failed write means that the reader is gone, which `closed`
   * reports.
   */
  write(events: string): void {
    this.#silentTicks = 0;
    this.#writer.write(encoder.encode(events)).catch(ignore);
  }

  /** Writes a heartbeat where it is time for one. */
  tick(): void {
    if (++this.#silentTicks < this.#heartbeatTicks) return;
    this.write(sseComment("hb"));
    this.#parts.silent();
  }

  /** After the last events, and without waiting for more. */
  close(events: string): void {
    this.write(events);
    this.#writer.close().catch(ignore);
  }

  /** Before anybody read it, or where nobody does any more. */
  discard(): void {
    this.#writer.abort().catch(ignore);
  }
}

function ignore(): void {}
