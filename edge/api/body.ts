/** Reads, parses and checks a request's body. Error messages name the field, the value and the limit. */
import type { Context } from "hono";
import type * as z from "zod";
import { parseCallerJson } from "../../shared/contracts/caller-json.ts";
import { describe } from "../../shared/contracts/fields.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import { modelOf } from "../tenants/keys.ts";
import type { AppEnvironment, Dependencies } from "./dependencies.ts";
import { claimKey } from "./idempotency.ts";

const utf8 = new TextEncoder();

/** Reading and encoding a body of this size takes at most some 3 ms of CPU, about as much as refusing a request by its headers. */
export const smallBodyBytes = 32 * 1024;

/**
 * Reads a request's JSON object and checks it against `schema`, with the model that an alias stands for. Headers are checked before
 * the body is read, and so is the admission of a body that may be large. Throws a ServiceError of status 400, 408, 413, 415, 429 or 503.
 */
export async function readBody<T extends z.ZodType>(
  c: Context<AppEnvironment>,
  { bodyReads }: Dependencies,
  schema: T,
): Promise<z.output<T>> {
  const request = c.req.raw;
  const { declaredBytes } = c.env;
  requireReadable(request, declaredBytes);
  const maxBytes = maxBytesOf(declaredBytes);
  if (maxBytes > smallBodyBytes) await c.get("admission").admit();
  const access = c.get("access");
  return bodyReads.during(access.keyId, maxBytes, async () => {
    const text = await boundedText(request, declaredBytes, limits.bodyMs);
    const body: { model?: unknown } = objectIn(text);
    const model = typeof body.model === "string" ? modelOf(access, body.model) : body.model;
    const value = checked(schema, model === body.model ? body : { ...body, model });
    await claimKey(c, () => utf8.encode(text));
    return value;
  });
}

/** The same for the admin API, which has no tenant's limits. */
export async function readAdminBody<T extends z.ZodType>(c: Context<AppEnvironment>, schema: T): Promise<z.output<T>> {
  const { declaredBytes } = c.env;
  requireReadable(c.req.raw, declaredBytes);
  return checked(schema, objectIn(await boundedText(c.req.raw, declaredBytes, limits.bodyMs)));
}

/** Maximum bytes of a body, according to its Content-Length. */
export function maxBytesOf(declaredBytes: number | null): number {
  return Math.min(declaredBytes ?? limits.bodyBytes, limits.bodyBytes);
}

/** Throws unsupported_media_type or body_too_large, according to the headers. */
function requireReadable({ headers }: Request, declaredBytes: number | null): void {
  const type = headers.get("content-type") ?? "";
  if (!/^application\/json *(;|$)/i.test(type)) {
    throw new ServiceError(
      "unsupported_media_type",
      `Content-Type is ${JSON.stringify(type.slice(0, 80))}; it must be application/json.`,
    );
  }
  if (declaredBytes !== null && declaredBytes > limits.bodyBytes) throw tooLarge(declaredBytes, "");
}

function tooLarge(bytes: number, relation: string): ServiceError {
  const message = `The body has ${relation}${bytes} bytes, the maximum is ${limits.bodyBytes}.`;
  return new ServiceError("body_too_large", message);
}

/** Parses `value` with `schema`. Throws invalid_request for the first issue. */
export function checked<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const unknown = issue.code === "unrecognized_keys" ? [issue.keys[0].slice(0, limits.adapterCharacters)] : [];
  const param = fieldName([...issue.path, ...unknown]);
  throw invalidRequest(messageOf(issue, param || "the body"), param || null);
}

const wholeUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

/** Reads text within `limitMs`. Throws a ServiceError of status 400, 408 or 413. */
export function boundedText(request: Request, declaredBytes: number | null, limitMs: number): Promise<string> {
  return bounded(request, limitMs, (reader, arrived) => readText(reader, declaredBytes, arrived));
}

type ReadBody<T> = (
  reader: ReadableStreamDefaultReader<Uint8Array>,
  arrived: { bytes: number; chunks: number },
) => Promise<T>;

/**
 * Reads a body within `limitMs`. `read` counts in `arrived` and throws a ServiceError for too much of it. Throws a ServiceError of
 * status 400, 408 or 413.
 */
export async function bounded<T>({ body }: Request, limitMs: number, read: ReadBody<T>): Promise<T> {
  const reader = body?.getReader();
  const arrived = { bytes: 0, chunks: 0 };
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    const message = `Of the body ${arrived.bytes} bytes came within ${limitMs} ms, the longest that we wait for all of it.`;
    late.reject(new ServiceError("body_too_slow", message));
  }, limitMs);
  try {
    // Not a race for each chunk: the timeout's promise would keep all their reactions.
    const source = reader ?? new ReadableStream<Uint8Array>({ start: (empty) => empty.close() }).getReader();
    return await Promise.race([read(source, arrived), late.promise]);
  } catch (error) {
    // workerd keeps the error of an aborted body, and until `stack` is read that keeps request and response in memory.
    if (error instanceof Error) void error.stack;
    // The rest of a body that is too large is left to be discarded (local-worker.ts): cancelling it closes the connection at once.
    if (error instanceof ServiceError && error.kind === "body_too_large") reader?.releaseLock();
    else reader?.cancel(error).catch(() => undefined);
    if (error instanceof ServiceError) throw error;
    if (error instanceof TypeError) throw new ServiceError("invalid_request", "The body is not valid UTF-8.");
    // The client disconnected, or the framing of the body contradicts its headers.
    throw new ServiceError("invalid_request", `The body broke off after ${arrived.bytes} bytes.`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Reads text to its end or until `declaredBytes` have arrived, which may be absent or wrong: so it counts bytes and chunks in
 * `arrived`, and throws a ServiceError for too many of either.
 */
async function readText(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  declaredBytes: number | null,
  arrived: { bytes: number; chunks: number },
): Promise<string> {
  let decoder: TextDecoder | null = null;
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + (decoder?.decode() ?? "");
    arrived.bytes += value.byteLength;
    arrived.chunks++;
    if (arrived.bytes > limits.bodyBytes) throw tooLarge(arrived.bytes, "at least ");
    if (arrived.bytes === declaredBytes) return text + (decoder ?? wholeUtf8).decode(value);
    if (arrived.chunks > limits.bodyChunks) {
      const message = `The body came in at least ${arrived.chunks} chunks, the maximum is ${limits.bodyChunks}.`;
      throw new ServiceError("invalid_request", message);
    }
    decoder ??= new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });
    text += decoder.decode(value, { stream: true });
  }
}

export function objectIn(text: string, maxValues?: number): object {
  const value = parseCallerJson(text, maxValues);
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  const kind = Array.isArray(value) ? "a list" : value === null ? "null" : `a ${typeof value}`;
  throw new ServiceError("invalid_request", `The body is ${kind}; it must be a JSON object.`);
}

function messageOf(issue: z.core.$ZodIssue, name: string): string {
  const input = issue.input === undefined ? "absent" : describe(issue.input);
  switch (issue.code) {
    case "too_big":
    case "too_small": {
      const bound = issue.code === "too_big" ? `the maximum is ${issue.maximum}` : `the minimum is ${issue.minimum}`;
      return issue.origin === "string"
        ? `${name} has ${(issue.input as string).length} characters, ${bound}`
        : `${name} is ${input}, ${bound}`;
    }
    case "invalid_type": {
      const expected = issue.expected === "int" ? "integer" : issue.expected;
      return `${name} is ${input}; it must be of type ${expected}`;
    }
    case "invalid_value":
      return `${name} is ${input}; it must be ${issue.values.map((value) => JSON.stringify(value)).join(" or ")}`;
    default:
      return issue.message;
  }
}

/** `["chameleon", "adapter"]` → `chameleon.adapter`; indexes as OpenAI writes them: `stop[2]`. */
function fieldName(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (name, key) => (typeof key === "number" ? `${name}[${key}]` : name ? `${name}.${String(key)}` : String(key)),
    "",
  );
}
