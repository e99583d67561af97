/** Calls the API. Failures become sentences that tell the page's user what to do. */
import type { ErrorEnvelope } from "../../shared/errors.ts";

export class Api {
  readonly #origin: string;
  readonly #key: () => string;

  /** `origin`: origin of the edge's URL. `key`: called for each request. */
  constructor(origin: string, key: () => string) {
    this.#origin = origin;
    this.#key = key;
  }

  async json<T>(path: string, body?: object, options: { method?: string; signal?: AbortSignal } = {}): Promise<T> {
    const response = await this.#call(path, body, options);
    try {
      return (await response.json()) as T;
    } catch (error) {
      throw brokenOff(error);
    }
  }

  /** Yields the chunks of a streamed answer. Throws a CallFailure, or an AbortError once `signal` aborts. */
  async *chunks<T>(path: string, body: object, signal: AbortSignal): AsyncGenerator<T> {
    const { body: bytes } = await this.#call(path, { ...body, stream: true }, { signal });
    const reader = bytes!.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    let isWhole = false;
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        throw brokenOff(error);
      });
      if (done) break;
      const events = (pending + value).split("\n\n");
      pending = events.pop() ?? "";
      for (const event of events) {
        if (event === "data: [DONE]") isWhole = true;
        if (!event.startsWith("data: {")) continue;
        const chunk = JSON.parse(event.slice("data: ".length)) as T | ErrorEnvelope;
        // The user may have stopped the call between two events that arrived in one read.
        signal.throwIfAborted();
        if (isError(chunk)) throw new CallFailure(`The answer broke off: ${chunk.error.message}`);
        yield chunk;
      }
    }
    if (!isWhole) throw brokenOff(null);
  }

  async #call(path: string, body?: object, { method, signal }: { method?: string; signal?: AbortSignal } = {}) {
    const key = this.#key();
    refuseUnsendable(key);
    const request: RequestInit = {
      method: method ?? (body ? "POST" : "GET"),
      headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
      ...(body && { body: JSON.stringify(body) }),
      ...(signal && { signal }),
    };
    const response = await fetch(this.#origin + path, request).catch((error: unknown) => {
      if (isAbort(error)) throw error;
      throw new CallFailure(
        `The edge at ${this.#origin} does not answer. Start it again with “npm start”, or check the network. Your text and settings are kept.`,
      );
    });
    if (response.ok) return response;
    const envelope: unknown = await response.json().catch(() => null);
    const error = isError(envelope) ? envelope.error : null;
    throw new CallFailure(inWords(response, error), error?.code);
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** "" if the user stopped the call. */
export function failureText(error: unknown): string {
  if (isAbort(error)) return "";
  return error instanceof CallFailure ? error.message : `The page failed: ${String(error)}`;
}

function inWords({ status, headers }: Response, error: ErrorEnvelope["error"] | null): string {
  const message = error?.message ?? `The edge answered with status ${status}.`;
  const wait = headers.get("retry-after");
  const later = wait ? ` Try again in ${wait} s.` : "";
  switch (error?.code) {
    case "invalid_api_key":
      return `The API key is wrong. Enter another under “Key” at the top; a local start has sk-chameleon-local. (${message})`;
    case "backend_unavailable":
      return `No backend answers: the edge runs, the model behind it does not. It may still be starting.${later} (${message})`;
    case "context_length_exceeded":
      return `The text is longer than the model can read. Shorten it. (${message})`;
    case "insufficient_quota":
    case "rate_limit_exceeded":
    case "overloaded":
      return `Too much at once for this key or machine.${later} (${message})`;
    default:
      return message;
  }
}

/** Throws a CallFailure for a key that no header can carry. `fetch` would fail as if no server answered. */
function refuseUnsendable(key: string): void {
  const at = key.search(/[^\x21-\x7e]/);
  if (at < 0) return;
  const code = key.codePointAt(at)!.toString(16).toUpperCase().padStart(4, "0");
  throw new CallFailure(
    `Character ${at + 1} of the API key, U+${code}, is one that no header can carry. Enter the key again under “Key” at the top.`,
  );
}

function brokenOff(error: unknown): unknown {
  if (isAbort(error)) return error;
  return new CallFailure("The connection to the edge broke off. What came before is kept.");
}

function isError(value: unknown): value is ErrorEnvelope {
  return typeof value === "object" && value !== null && "error" in value;
}

export class CallFailure extends Error {
  readonly code: string | null;

  constructor(message: string, code: string | null = null) {
    super(message);
    this.code = code;
  }
}
