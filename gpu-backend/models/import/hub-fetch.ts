/** `fetch` for the hub, with the token and a bounded number of retries. */
import type { HubConfig } from "../../config.ts";

export interface HubAccess extends HubConfig {
  fetch: typeof fetch;
  /** Rejects when the import is interrupted. */
  wait(ms: number): Promise<void>;
  now(): Date;
  note(line: string): void;
  signal?: AbortSignal;
}

export const maxTries = 5;
const maxWaitMs = 300_000;

/** A failure after which no retry would help. */
export class HubError extends Error {}

/** Throws a HubError for any status but 2xx. `id` is the model's hub id. */
export function hubFetch(id: string, access: HubAccess): typeof fetch {
  return async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const headers = new Headers(init?.headers);
    // The token goes only to the hub, because a listing may point to another host.
    if (access.token && url.origin === new URL(access.endpoint).origin) {
      headers.set("authorization", `Bearer ${access.token}`);
    }
    for (let tries = 1; ; tries++) {
      const outcome = await access.fetch(url, { ...init, headers, signal: access.signal }).catch((error) => {
        access.signal?.throwIfAborted();
        return unreached(url, error);
      });
      if (outcome instanceof Response && outcome.ok) return outcome;
      const waitMs =
        outcome instanceof Response ? waitBeforeRetryMs(outcome, tries, access.now()) : outcome.waitMs(tries);
      if (waitMs === null || tries === maxTries || waitMs > maxWaitMs) {
        throw outcome instanceof Response ? refusal(id, url, outcome, access, tries, waitMs) : outcome.error;
      }
      const why = outcome instanceof Response ? `answered ${outcome.status}` : "broke the connection";
      access.note(`${url.host} ${why}; trying again in ${Math.ceil(waitMs / 1000)} s`);
      if (outcome instanceof Response) await outcome.body?.cancel();
      await access.wait(waitMs);
    }
  };
}

export function backOffMs(tries: number): number {
  return 1000 * 2 ** (tries - 1);
}

/** Returns null if a retry is pointless. */
function waitBeforeRetryMs({ status, headers }: Response, tries: number, now: Date): number | null {
  if (![408, 429, 500, 502, 503, 504].includes(status)) return null;
  const retryAfter = headers.get("retry-after");
  if (retryAfter && /^\d+$/.test(retryAfter)) return Number(retryAfter) * 1000;
  const until = Date.parse(retryAfter ?? "");
  if (!Number.isNaN(until)) return Math.max(0, until - now.getTime());
  // The hub's own header, such as `RateLimit: "api";r=0;t=42`, has seconds in t.
  const reset = /;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "");
  return reset && status === 429 ? Number(reset[1]) * 1000 : backOffMs(tries);
}

/** Failures after which a retry may succeed. */
const passing = /ECONNRESET|EPIPE|ETIMEDOUT|UND_ERR_(SOCKET|CONNECT_TIMEOUT|HEADERS_TIMEOUT|BODY_TIMEOUT)/;

function unreached(url: URL, thrown: unknown) {
  const { cause, message } = thrown as Error & { cause?: { code?: string; message?: string } };
  const code = cause?.code ?? "";
  const why = [code, cause?.message ?? message].filter(Boolean).join(", ");
  return {
    error: new HubError(`cannot reach ${url.host} (${why}); behind a proxy set HTTPS_PROXY, for a mirror HF_ENDPOINT`),
    waitMs: (tries: number) => (passing.test(code) ? backOffMs(tries) : null),
  };
}

function refusal(
  id: string,
  url: URL,
  { status, headers }: Response,
  hub: HubConfig,
  tries: number,
  waitMs: number | null,
) {
  const reason = headers.get("x-error-code");
  const page = `${hub.endpoint}/${id}`;
  const tried = tries === 1 ? "tried once" : `tried ${tries} times`;
  const error = (text: string) => new HubError(`${text} (HTTP ${status}, ${url.origin}${url.pathname})`);
  if (reason === "GatedRepo" && (status === 401 || status === 403)) {
    return error(`${id} is gated: accept its terms at ${page} and set HF_TOKEN to a token of that account`);
  }
  if (status === 401) {
    return hub.token
      ? error(`${id}: the hub does not accept HF_TOKEN, or has no such model`)
      : error(`${id}: the hub has no such model, or it is private: check the name, or set HF_TOKEN`);
  }
  if (status === 403) return error(`${id}: ${hub.token ? "HF_TOKEN may not read it" : "reading it takes HF_TOKEN"}`);
  if (status === 404 && reason === "RevisionNotFound") return error(`${id} has no such revision`);
  if (status === 404) return error(`${id} is not on ${hub.endpoint}`);
  if (status === 429) {
    const seconds = waitMs === null ? "" : `, and asks to wait ${Math.ceil(waitMs / 1000)} s more`;
    return error(`${url.host} limits requests: ${tried}${seconds}`);
  }
  return error(`${url.host} failed, ${tried}`);
}
