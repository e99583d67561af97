/**
 * A `fetch` for clients of OpenAI's API whose streams survive broken connections. It sends the request again with the same
 * Idempotency-Key, and the stream continues after the last event that arrived. The request is charged once.
 *
 *     const openai = new OpenAI({ baseURL, apiKey, fetch: resumableFetch() });
 *
 * Events of a stream with several choices have no ids, so such a stream cannot be resumed: if its connection breaks after the first
 * event, the stream fails. Turn off the client's own retries (`maxRetries: 0`), because each of them gets another key.
 */

export interface ResumableOptions {
  /** Sends each attempt. Default: the global `fetch`. */
  fetch?: typeof fetch;
  /** Maximum retries in a row that bring no new event. Default: 5. */
  attempts?: number;
  /** Milliseconds before the first retry; each further retry without a new event waits twice as long. Default: 250. */
  delayMs?: number;
  /** Silence in milliseconds after which a connection counts as lost. The edge sends a heartbeat every second. Default: 15,000. */
  silenceMs?: number;
}

export function resumableFetch({
  fetch: send = fetch,
  attempts = 5,
  delayMs = 250,
  silenceMs = 15_000,
}: ResumableOptions = {}): typeof fetch {
  return async (input, init) => {
    if (init?.method !== "POST" || typeof init.body !== "string") return send(input, init);
    const headers = new Headers(init.headers);
    if (!headers.has("idempotency-key")) headers.set("idempotency-key", crypto.randomUUID());
    const stop = new AbortController();
    const signal = init.signal ? AbortSignal.any([init.signal, stop.signal]) : stop.signal;
    let failures = 0;
    const pause = () => sleep(delayMs * 2 ** failures++, signal);

    /** Sends the request until it is answered. Throws the connection's error when no attempts are left. */
    const ask = async (): Promise<Response> => {
      for (;;) {
        try {
          return await send(input, { ...init, headers, signal });
        } catch (error) {
          if (signal.aborted || failures === attempts) throw error;
          await pause();
        }
      }
    };

    const first = await ask();
    const isStream = first.headers.get("content-type")?.startsWith("text/event-stream");
    if (!isStream || !first.ok || !first.body) return first;

    async function* events(begun: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
      let [hasBegun, isOver] = [false, false];
      for (let body = begun; ; ) {
        try {
          for await (const { bytes, id, isData, isEnd } of splitEvents(body, silenceMs, signal)) {
            if (id !== null) {
              headers.set("last-event-id", id);
              failures = 0;
            }
            hasBegun ||= isData;
            isOver ||= isEnd;
            yield bytes;
          }
          if (isOver) return;
          throw new TypeError("the stream ended before its last event");
        } catch (error) {
          // A stream is complete after an error event. A stream without event ids cannot be resumed.
          if (isOver || signal.aborted || failures === attempts) throw error;
          if (hasBegun && !headers.has("last-event-id")) throw error;
          await pause();
          const response = await ask();
          if (!response.ok || !response.body) {
            throw new TypeError(`the stream cannot be resumed: ${(await response.text()).slice(0, 400)}`, {
              cause: error,
            });
          }
          body = response.body;
        }
      }
    }
    const generated = events(first.body);
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { done, value } = await generated.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel() {
        // Not awaited, because the generator may wait for a read of a dead connection.
        stop.abort();
        generated.return(undefined).catch(() => {});
      },
    });
    return new Response(body, { status: first.status, headers: first.headers });
  };
}

interface StreamEvent {
  bytes: Uint8Array;
  id: string | null;
  /** False for a comment. Heartbeats are comments. */
  isData: boolean;
  /** The stream's end or an error event. No event follows. */
  isEnd: boolean;
}

/** The complete events of one connection, each with the empty line that ends it. Throws after `silenceMs` without bytes. */
async function* splitEvents(
  body: ReadableStream<Uint8Array>,
  silenceMs: number,
  signal: AbortSignal,
): AsyncGenerator<StreamEvent> {
  const decoder = new TextDecoder();
  const encoder = new TextEncoder();
  const reader = body.getReader();
  let text = "";
  try {
    for (;;) {
      const silent = new AbortController();
      const silence = sleep(silenceMs, AbortSignal.any([signal, silent.signal])).then(() => {
        throw new TypeError(`nothing arrived for ${silenceMs} ms`);
      });
      const { done, value } = await Promise.race([reader.read(), silence]).finally(() => silent.abort());
      silence.catch(() => {});
      if (done) return;
      text += decoder.decode(value, { stream: true });
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const event = text.slice(0, end + 2);
        text = text.slice(end + 2);
        const id = /^id: (.*)$/m.exec(event)?.[1] ?? null;
        const isEnd = event === "data: [DONE]\n\n" || (id === null && /^data: \{"(error|type":"error)"/m.test(event));
        yield { bytes: encoder.encode(event), id, isData: !event.startsWith(":"), isEnd };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal.addEventListener("abort", abort, { once: true });
  });
}
