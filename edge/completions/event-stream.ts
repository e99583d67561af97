/**
 * Server-sent events as response bodies: with heartbeats, told at once when the reader is gone, and gathered where somebody
 * has many. Each write costs the object's one thread about as much as all that made its events, so the streams of a tenant
 * that has many at once would take its time from everybody's first tokens.
 */
import { sseComment } from "../../shared/contracts/sse.ts";

export const streamLimits = {
  /** Streams of a tenant, at one object, whose events are written as they come. */
  ungathered: 4,
  /** Where it has more, events of all of them wait for those of so long at most; first and last ones never do. */
  gatherMs: 25,
};

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

  /** Where nothing is written for `heartbeatMs` a comment is, since only a write shows that a client is gone. */
  open(tenant: string, heartbeatMs: number, events: StreamEvents): EventStream {
    const streams = this.#tenants.get(tenant) ?? new Set();
    this.#tenants.set(tenant, streams);
    const stream = new EventStream(heartbeatMs, {
      isGathered: () => streams.size > streamLimits.ungathered,
      silent: events.silent,
      ended: (isGone) => {
        streams.delete(stream);
        if (streams.size === 0) this.#tenants.delete(tenant);
        if (this.#tenants.size === 0) this.#stop();
        events.ended(isGone);
      },
    });
    streams.add(stream);
    this.#timer ??= setInterval(() => this.#tick(), streamLimits.gatherMs);
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
  readonly #parts: StreamEvents & { isGathered(): boolean };
  readonly #heartbeatTicks: number;
  #silentTicks = 0;
  #hasBegun = false;
  /** Events that wait for the next tick. */
  #gathered = "";

  constructor(heartbeatMs: number, parts: StreamEvents & { isGathered(): boolean }) {
    // The runtime's own: a stream of JavaScript's takes a turn of it for each chunk.
    const { readable, writable } = new IdentityTransformStream();
    this.body = readable;
    this.#writer = writable.getWriter();
    this.#parts = parts;
    // A tick may come right after a write.
    this.#heartbeatTicks = Math.max(1, Math.floor(heartbeatMs / streamLimits.gatherMs) - 1);
    this.#writer.closed.then(
      () => parts.ended(false),
      () => parts.ended(true),
    );
  }

  /** Never waits: whoever writes bounds what there is to write. */
  write(events: string): void {
    if (this.#hasBegun && this.#parts.isGathered()) this.#gathered += events;
    else this.#send(events);
    this.#hasBegun = true;
  }

  /** Writes what is gathered, or a heartbeat where it is time for one. */
  tick(): void {
    this.#silentTicks++;
    if (this.#gathered !== "") this.#send("");
    else if (this.#silentTicks >= this.#heartbeatTicks) {
      this.#send(sseComment("hb"));
      this.#parts.silent();
    }
  }

  /** After the last events, and without waiting for more. */
  close(events: string): void {
    this.#send(events);
    this.#writer.close().catch(ignore);
  }

  /** Before anybody read it, or where nobody does any more. */
  discard(): void {
    this.#writer.abort().catch(ignore);
  }

  /** What was gathered before goes first. A failed write means that the reader is gone, which `closed` reports. */
  #send(events: string): void {
    this.#silentTicks = 0;
    this.#writer.write(encoder.encode(this.#gathered + events)).catch(ignore);
    this.#gathered = "";
  }
}

function ignore(): void {}
