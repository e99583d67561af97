/** Answers that the Worker itself makes. A large answer counts as a concurrent request until it has ended. */
import { joinArrays } from "../../shared/bytes.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError, toServiceError } from "../../shared/errors.ts";
import { type AnswerBody, joinedBytes, shortAnswerBytes, unreadAheadBytes } from "../answer/answer-body.ts";
import type { EndReason } from "../answer/answer-end.ts";
import type { AppContext, AppEnvironment, Dependencies } from "./dependencies.ts";

type Piece = string | Uint8Array;
type Pieces = Iterable<Piece> | AsyncIterable<Piece>;

interface AnswerOptions {
  headers: Record<string, string>;
  /** Bytes of RAM that `pieces` holds until the answer has ended. */
  retainedBytes?: number;
  /** Settled before the answer ends. `isSent`: the answer has begun, so its use is charged. */
  admission?: { renew(): void; settle(isSent: boolean): Promise<void> };
}

/** Throws rate_limited if too many of the tenant's answers are unread, or overloaded if they hold too many bytes. */
export async function answer(
  c: AppContext,
  dependencies: Dependencies,
  pieces: Pieces,
  { headers, retainedBytes = 0, admission }: AnswerOptions,
): Promise<Response> {
  const parts = partsOf(pieces);
  const { value: first } = await parts.next().catch((error) => {
    void admission?.settle(false);
    throw error;
  });
  if (first.length <= shortAnswerBytes) {
    await admission?.settle(true);
    const length = String(first.length);
    return new Response(first as Uint8Array<ArrayBuffer>, { headers: { ...headers, "content-length": length } });
  }
  if (c.req.method === "HEAD") {
    await parts.return(first);
    return new Response(null, { headers });
  }
  const { bodies, background, log } = dependencies;
  const access: AppEnvironment["Variables"]["access"] | undefined = c.get("access");
  // Requests without a key count as one tenant.
  const tenant = access?.tenant ?? "";
  if (!bodies.hasRoom(tenant, retainedBytes + first.length)) {
    void admission?.settle(false);
    const message = "Too many large answers are not read yet; try again.";
    throw new ServiceError("overloaded", message, { retryAfterSeconds: 1 });
  }
  const [open, maximum] = [bodies.countOf(tenant), access?.limits.concurrentRequests ?? null];
  // Without an admission, only this isolate's answers count towards the limit of concurrent requests.
  if (!admission && maximum !== null && open >= maximum) {
    const message = `${open} large answers are not read yet, the limit of requests at once is ${maximum}.`;
    throw new ServiceError("rate_limited", message, { retryAfterSeconds: 1 });
  }
  const ended = Promise.withResolvers<EndReason>();
  let wake = () => {};
  const body = bodies.open(
    { tenant, maximumBytes: limits.wholeAnswerBytes, heartbeat: null },
    {
      ticked: () => admission?.renew(),
      drained: () => wake(),
      settled: () => wake(),
      // An error cannot be put into JSON that has begun.
      errorText: () => null,
      ended(reason) {
        void admission?.settle(true);
        ended.resolve(reason);
      },
    },
  );
  body.setPendingBytes(retainedBytes, false);
  const isRead = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
    });
  const sent = send(first, parts, body, isRead, async () => admission?.settle(true)).catch((thrown) => {
    const error = toServiceError(thrown);
    log(c.get("requestId"), error);
    body.fail("failed", error);
  });
  const end = Promise.all([ended.promise, sent]).then(([reason]) => endings[reason]);
  c.set("end", end);
  background(end.then(() => undefined));
  return new Response(body.readable, { headers });
}

const endings: Record<EndReason, string | null> = {
  complete: null,
  failed: "the answer broke off",
  deadline: "the answer broke off",
  limit: "the answer was not read",
  gone: "the client went away",
};

export function answerList<List extends { object: "list"; data: readonly unknown[] }>(
  c: AppContext,
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

export async function* chunksOf({ body }: Response): AsyncGenerator<Uint8Array> {
  if (body !== null) yield* body.values();
}

const encoder = new TextEncoder();

/** The first part has more than `shortAnswerBytes`, or is the whole answer. Later parts have more than `joinedBytes`. */
async function* partsOf(pieces: Pieces): AsyncGenerator<Uint8Array, Uint8Array> {
  let joined: Uint8Array[] = [];
  let bytes = 0;
  let minBytes = shortAnswerBytes;
  for await (const piece of pieces) {
    const part = typeof piece === "string" ? encoder.encode(piece) : piece;
    joined.push(part);
    bytes += part.length;
    if (bytes <= minBytes) continue;
    yield joinArrays(Uint8Array, joined);
    joined = [];
    bytes = 0;
    minBytes = joinedBytes;
  }
  return joinArrays(Uint8Array, joined);
}

async function send(
  first: Uint8Array,
  others: ReturnType<typeof partsOf>,
  body: AnswerBody,
  isRead: () => Promise<void>,
  charge: () => Promise<void>,
): Promise<void> {
  body.write(first);
  for (let done: boolean | undefined = false; !done; ) {
    while (body.isOpen && body.unreadBytes >= unreadAheadBytes) await isRead();
    const next = body.isOpen ? await others.next() : await others.return(first);
    if (next.done && body.isOpen) await charge();
    if (body.isOpen) body.write(next.value);
    done = next.done;
  }
  body.complete("");
}
