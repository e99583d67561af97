/**
 * `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07). A repeated request has the same id, time and seed. Its tokens are
 * computed again and charged once (tenants/ledger-store.ts).
 */
import { sha256Hex } from "../../shared/bytes.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest } from "../../shared/errors.ts";
import { cursorAfter, type StreamCursor } from "../answer/sent-events.ts";
import type { AppContext, Dependencies, Repeatable } from "./dependencies.ts";

const header = "idempotency-key";
const utf8 = new TextEncoder();

/** Hex SHA-256 of tenant and Idempotency-Key; null without the header. Throws invalid_request. */
export async function idempotencyKeyOf(c: AppContext, tenant: string): Promise<string | null> {
  const key = c.req.header(header);
  if (key === undefined) return null;
  if (key.length > limits.idempotencyKeyCharacters || !/^[\x21-\x7e]+$/.test(key)) {
    const shown = JSON.stringify(key.slice(0, 40));
    const message = `the header Idempotency-Key is ${shown} (${key.length} characters); it must be 1 to ${limits.idempotencyKeyCharacters} printable ASCII characters without spaces`;
    throw invalidRequest(message, "Idempotency-Key");
  }
  return sha256Hex(utf8.encode(`${tenant}\n${key}`));
}

/** Claims the idempotency key for path and body. Throws idempotency_conflict if an earlier request used it with another path or body. */
export async function claimKey(c: AppContext, body: () => Uint8Array): Promise<void> {
  const key = c.get("idempotencyKey");
  if (key === null) return;
  const { pathname, search } = new URL(c.req.url);
  const digest = await sha256Hex(
    utf8.encode(`${pathname}${search}\n${await sha256Hex(body())}\n${c.req.header(header)}`),
  );
  const { createdMs } = await c.get("admission").claim(digest);
  c.set("repeatable", { id: key.slice(0, 32), seed: Number.parseInt(key.slice(32, 40), 16), createdMs });
}

/** Id and time of the object that a request creates. A repeated request gets those of its first try. */
export function originOf(
  c: AppContext,
  { newId, now }: Pick<Dependencies, "newId" | "now">,
): Pick<Repeatable, "id" | "createdMs"> {
  return c.get("repeatable") ?? { id: newId(), createdMs: now() };
}

/** Maximum events without a token in a stream. An answer of `/v1/responses` begins with up to ten of these events. */
const otherEvents = 64;

/**
 * Place from which `Last-Event-ID` resumes a stream (WHATWG HTML, "Server-sent events"). Throws invalid_request if `maxTokens` is null (the
 * request cannot be resumed), or if no event of the stream has the id.
 */
export function resumptionOf(c: AppContext, maxTokens: number | null): StreamCursor | null {
  const eventId = c.req.header("last-event-id");
  if (eventId === undefined) return null;
  if (maxTokens === null) {
    const message =
      "Last-Event-ID resumes a stream of one choice, whose request is sent again with its Idempotency-Key";
    throw invalidRequest(message, "Last-Event-ID");
  }
  const cursor = cursorAfter(eventId);
  if (cursor && cursor.choices[0].events <= maxTokens + otherEvents) return cursor;
  const shown = JSON.stringify(eventId.slice(0, 40));
  throw invalidRequest(`Last-Event-ID is ${shown}, which is the id of no event of this stream`, "Last-Event-ID");
}
