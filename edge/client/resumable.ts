/**
 * A `fetch` for clients of OpenAI's API whose streams outlive broken connections: the request is sent again under its Idempotency-Key,
 * and the stream continues after the last event that arrived. It is charged once.
 *
 *     const openai = new OpenAI({ baseURL, apiKey, fetch: resumableFetch() });
 *
 * Streams of several choices have no ids: once they have begun they end in the connection's error, as without it. A client's own
 * retries get other keys, so let this one retry (`maxRetries: 0`).
 */

export interface ResumableOptions {
  /** Sends each try; the global one unless given. */
  fetch?: typeof fetch;
  /** Tries after a loss, in a row without a new event between them. */
  attempts?: number;
  /** Milliseconds before the first such try; doubled for each further one. */
  delayMs?: number;
  /** Milliseconds without a byte of a stream after which its connection counts as lost: the edge sends one at least every second. */
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
    // Customers' programs run anywhere, where this is the source of chance.
    if (!headers.has("idempotency-key")) headers.set("idempotency-key", crypto.randomUUID());
    const stop = new AbortController();
    const signal = init.signal ? AbortSignal.any([init.signal, stop.signal]) : stop.signal;
    let failures = 0;
    const pause = () => sleep(delayMs * 2 ** failures++, signal);

    /** Sends the request until it is answered. Throws the connection's error once the tries are used up. */
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
          // After an error of the stream nothing follows; without an id nobody knows where it would continue.
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
        // Not awaited: a read of a dead connection may hold it up.
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
  /** False for a comment, which is a heartbeat. */
  isData: boolean;
  /** The stream's end or an error, after which nothing new comes. */
  isEnd: boolean;
}

/** The whole events of one connection, each with its empty line. Throws if nothing arrives for `silenceMs`. */
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

/** Rejects with the signal's reason if that comes first. */
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
