/**
 * A `fetch` for clients of OpenAI's API whose streams outlive broken connections: the request is sent again under its Idempotency-Key,
 * and the stream continues after the last event that arrived. It is charged once.
 *
 *     const openai = new OpenAI({ baseURL, apiKey, fetch: resumableFetch() });
 *
 * Streams of several choices have no ids, so they end in the connection's error as without it.
 */

export interface ResumableOptions {
  /** Sends each try; the global one unless given. */
  fetch?: typeof fetch;
  /** Tries to resume after a loss, in a row without an event between them. */
  attempts?: number;
  /** Milliseconds before the first such try; doubled for each further one. */
  delayMs?: number;
}

export function resumableFetch({
  fetch: send = fetch,
  attempts = 5,
  delayMs = 250,
}: ResumableOptions = {}): typeof fetch {
  return async (input, init) => {
    if (init?.method !== "POST" || typeof init.body !== "string") return send(input, init);
    const headers = new Headers(init.headers);
    if (!headers.has("idempotency-key")) headers.set("idempotency-key", crypto.randomUUID());
    const first = await send(input, { ...init, headers });
    const isStream = first.headers.get("content-type")?.startsWith("text/event-stream");
    if (!isStream || !first.ok || !first.body) return first;
    const resume = (lastId: string) => {
      headers.set("last-event-id", lastId);
      return send(input, { ...init, headers });
    };
    const events = eventsOf(first.body, resume, { attempts, delayMs, signal: init.signal ?? null });
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { done, value } = await events.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await events.return(undefined);
      },
    });
    return new Response(body, { status: first.status, headers: first.headers });
  };
}

interface Patience {
  attempts: number;
  delayMs: number;
  signal: AbortSignal | null;
}

/** Whole events, over as many connections as it takes. Throws the connection's error once the tries are used up. */
async function* eventsOf(
  body: ReadableStream<Uint8Array>,
  resume: (lastId: string) => Promise<Response>,
  { attempts, delayMs, signal }: Patience,
): AsyncGenerator<Uint8Array> {
  let lastId: string | null = null;
  let failures = 0;
  for (let next: ReadableStream<Uint8Array> | null = body; ; ) {
    try {
      if (next) {
        for await (const { bytes, id, isEnd } of splitEvents(next)) {
          lastId = id ?? lastId;
          failures = 0;
          yield bytes;
          if (isEnd) return;
        }
        if (lastId === null) return;
      }
      throw new TypeError("the stream ended before its last event");
    } catch (error) {
      if (lastId === null || signal?.aborted || failures === attempts) throw error;
      await new Promise((resolve) => setTimeout(resolve, delayMs * 2 ** failures));
      failures++;
      const response: Response | null = await resume(lastId).catch(() => null);
      // A request that is refused for good says why in its body, as an event.
      if (response && !response.ok && response.status < 500 && response.status !== 429) throw error;
      next = response?.ok ? response.body : null;
    }
  }
}

/** The events of one connection, each with its empty line; what comes after the last whole one is dropped. */
async function* splitEvents(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<{ bytes: Uint8Array; id: string | null; isEnd: boolean }> {
  const decoder = new TextDecoder();
  const encoder = new TextEncoder();
  const reader = body.getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const event = text.slice(0, end + 2);
        text = text.slice(end + 2);
        const id = /^id: (.*)$/m.exec(event)?.[1] ?? null;
        yield { bytes: encoder.encode(event), id, isEnd: event === "data: [DONE]\n\n" };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
