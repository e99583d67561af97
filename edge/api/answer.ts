/**
 * Answers that the Worker itself makes and that may be large: sent whole if they are short, otherwise as the client reads them. A
 * large one is a concurrent request until it has ended, and has the limits of a completion's body (answer/answer-body.ts).
 */
import type { Context } from "hono";
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { joinArrays } from "../../shared/join-arrays.ts";
import { type AnswerBody, joinedBytes, shortAnswerBytes, unreadAheadBytes } from "../answer/answer-body.ts";
import type { EndReason } from "../answer/answer-end.ts";
import type { AppEnvironment, Dependencies } from "./dependencies.ts";

/** UTF-8, as text or bytes. */
type Piece = string | Uint8Array;
type Pieces = Iterable<Piece> | AsyncIterable<Piece>;

interface AnswerOptions {
  headers: Record<string, string>;
  /** Bytes that `pieces` holds in memory until the answer has ended. */
  retainedBytes?: number;
  /** The admission of a POST, settled when the answer ends; `isSent`: the answer has begun. */
  admission?: { renew(): void; settle(isSent: boolean): void };
}

/** Answers with `pieces`. Throws rate_limited or overloaded if the tenant's unread answers are too many or too large. */
export async function answer(
  c: Context<AppEnvironment>,
  dependencies: Dependencies,
  pieces: Pieces,
  { headers, retainedBytes = 0, admission }: AnswerOptions,
): Promise<Response> {
  const source = iteratorOf(pieces);
  const first = await readPieces(source, shortAnswerBytes).catch((error) => {
    admission?.settle(false);
    throw error;
  });
  if (first.isLast && first.bytes.length <= shortAnswerBytes) {
    admission?.settle(true);
    return new Response(first.bytes as Uint8Array<ArrayBuffer>, {
      headers: { ...headers, "content-length": String(first.bytes.length) },
    });
  }
  if (c.req.method === "HEAD") {
    await source.return?.();
    return new Response(null, { headers });
  }
  const { bodies, background, log } = dependencies;
  const access: AppEnvironment["Variables"]["access"] | undefined = c.get("access");
  // Requests without a key count as one tenant.
  const tenant = access?.tenant ?? "";
  if (!bodies.hasRoom(tenant, retainedBytes + first.bytes.length)) {
    admission?.settle(false);
    const message = "Too many large answers are not read yet; try again.";
    throw new ServiceError("overloaded", message, { retryAfterSeconds: 1 });
  }
  if (!admission) requireFewerThan(bodies.countOf(tenant), access?.limits.concurrentRequests ?? null);
  const ended = Promise.withResolvers<EndReason>();
  let wake = () => {};
  const body = bodies.open(
    { tenant, maximumBytes: limits.wholeAnswerBytes, heartbeat: null },
    {
      ticked: () => admission?.renew(),
      drained: () => wake(),
      settled: () => wake(),
      // JSON that has begun cannot hold an error.
      errorText: () => null,
      ended(reason) {
        admission?.settle(true);
        ended.resolve(reason);
      },
    },
  );
  body.setPendingBytes(retainedBytes, false);
  body.write(first.bytes);
  const isRead = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
    });
  const sent = first.isLast ? Promise.resolve(body.complete("")) : send(source, body, isRead);
  const failed = sent.catch((thrown) => {
    const error = toServiceError(thrown);
    log(c.get("requestId"), error);
    body.fail("failed", error);
  });
  const end = Promise.all([ended.promise, failed]).then(([reason]) => endings[reason]);
  c.set("end", end);
  background(end.then(() => undefined));
  return new Response(body.readable, { headers });
}

/** Why an answer broke off, for the log; null if it did not. */
const endings: Record<EndReason, string | null> = {
  complete: null,
  failed: "the answer broke off",
  deadline: "the answer broke off",
  limit: "the answer was not read",
  gone: "the client went away",
};

/** Answers with a list in OpenAI's form. */
export function answerList<List extends { object: "list"; data: readonly unknown[] }>(
  c: Context<AppEnvironment>,
  dependencies: Dependencies,
  data: Iterable<List["data"][number]>,
  { others, headers, ...options }: Partial<AnswerOptions> & { others: Omit<List, "object" | "data"> },
): Promise<Response> {
  return answer(c, dependencies, listJson(others, data), {
    headers: { "content-type": "application/json", ...headers },
    ...options,
  });
}

function* listJson(others: object, data: Iterable<unknown>): Generator<string> {
  yield `${JSON.stringify({ object: "list", ...others }).slice(0, -1)},"data":[`;
  let separator = "";
  for (const entry of data) {
    yield separator + JSON.stringify(entry);
    separator = ",";
  }
  yield "]}";
}

/** The chunks of a response's body. */
export async function* chunksOf({ body }: Response): AsyncGenerator<Uint8Array> {
  if (body !== null) yield* body.values();
}

/** The limit of concurrent requests for those without admission, within one isolate. */
function requireFewerThan(open: number, maximum: number | null): void {
  if (maximum === null || open < maximum) return;
  const message = `${open} large answers are not read yet, the limit of requests at once is ${maximum}.`;
  throw new ServiceError("rate_limited", message, { retryAfterSeconds: 1 });
}

type Source = Iterator<Piece> | AsyncIterator<Piece>;

function iteratorOf(pieces: Pieces): Source {
  return Symbol.asyncIterator in pieces ? pieces[Symbol.asyncIterator]() : pieces[Symbol.iterator]();
}

const encoder = new TextEncoder();

/** Joins pieces until they have more than `maxBytes`, or to their end. */
async function readPieces(source: Source, maxBytes: number): Promise<{ bytes: Uint8Array; isLast: boolean }> {
  const parts: Uint8Array[] = [];
  let isLast = false;
  for (let bytes = 0; bytes <= maxBytes; ) {
    const { done, value } = await source.next();
    if (done) {
      isLast = true;
      break;
    }
    const part = typeof value === "string" ? encoder.encode(value) : value;
    parts.push(part);
    bytes += part.length;
  }
  return { bytes: joinArrays(Uint8Array, parts), isLast };
}

/** Writes the other pieces as the client reads. Resolves when all are written or the answer has ended. */
async function send(source: Source, body: AnswerBody, isRead: () => Promise<void>): Promise<void> {
  try {
    for (let isLast = false; !isLast; ) {
      while (body.isOpen && body.unreadBytes >= unreadAheadBytes) await isRead();
      if (!body.isOpen) return;
      const next = await readPieces(source, joinedBytes);
      body.write(next.bytes);
      isLast = next.isLast;
    }
    body.complete("");
  } finally {
    await source.return?.();
  }
}
