import type * as z from "zod";
import { joinArrays } from "../../shared/bytes.ts";
import { parseCallerJson } from "../../shared/contracts/caller-json.ts";
import { describe } from "../../shared/contracts/fields.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import { modelOf } from "../tenants/keys.ts";
import type { AppContext, Dependencies } from "./dependencies.ts";
import { claimKey } from "./idempotency.ts";

/** Bodies up to this size are read before admission. Reading takes at most 3 ms of CPU, as much as a refusal by headers. */
const smallBodyBytes = 32 * 1024;
const json = "application/json";

/** Reads and validates a JSON body, and resolves the model's alias. Throws a ServiceError of status 400, 408, 413, 415, 429 or 503. */
export function readBody<T extends z.ZodType>(
  c: AppContext,
  dependencies: Dependencies,
  schema: T,
): Promise<z.output<T>> {
  requireMediaType(c.req.header("content-type"), [json]);
  return receiveBody(c, dependencies, limits.bodyBytes, (chunks) => {
    const body: { model?: unknown } = objectIn(decoded(chunks, "The body"));
    const model = typeof body.model === "string" ? modelOf(c.get("access"), body.model) : body.model;
    return checked(schema, model === body.model ? body : { ...body, model });
  });
}

export async function readAdminBody<T extends z.ZodType>(c: AppContext, schema: T): Promise<z.output<T>> {
  const { declaredBytes } = c.env;
  requireMediaType(c.req.header("content-type"), [json]);
  expectedBytes(declaredBytes, limits.bodyBytes);
  return checked(schema, objectIn(decoded(await readChunks(c.req.raw, declaredBytes), "The body")));
}

/**
 * Receives a body, parses it with `read`, and claims the idempotency key for its bytes or, with `digested`, for bytes made from the parsed
 * value. A large body is read only after admission.
 */
export async function receiveBody<T>(
  c: AppContext,
  { bodyReads, documentReads }: Pick<Dependencies, "bodyReads" | "documentReads">,
  maxBytes: number,
  read: (chunks: Uint8Array[]) => T | Promise<T>,
  digested?: (value: T) => Uint8Array,
): Promise<T> {
  const { declaredBytes } = c.env;
  const bytes = expectedBytes(declaredBytes, maxBytes);
  if (bytes > smallBodyBytes) await c.get("admission").admit();
  // All keys share one limit for large bodies, because an isolate has RAM for few large bodies. Small bodies have a limit per key.
  const isLarge = bytes > limits.bodyBytes;
  const [reads, keyId] = isLarge ? [documentReads, ""] : [bodyReads, c.get("access").keyId];
  return reads.during(keyId, bytes, async () => {
    const limitMs = isLarge ? limits.documentBodyMs : limits.bodyMs;
    const chunks = await readChunks(c.req.raw, declaredBytes, limitMs, maxBytes);
    const value = await read(chunks);
    await claimKey(c, () => digested?.(value) ?? joinArrays(Uint8Array, chunks));
    return value;
  });
}

function expectedBytes(declaredBytes: number | null, maxBytes: number): number {
  if (declaredBytes !== null && declaredBytes > maxBytes) throw tooLarge(`${declaredBytes}`, maxBytes);
  return declaredBytes ?? maxBytes;
}

function tooLarge(bytes: string, maxBytes: number): ServiceError {
  return new ServiceError("body_too_large", `The body has ${bytes} bytes, the maximum is ${maxBytes}.`);
}

/** Returns the media type without its parameters. Throws unsupported_media_type unless `accepted` contains the type. */
export function requireMediaType(header = "", accepted: readonly string[], subject = "Content-Type"): string {
  const type = header.split(";")[0].trim().toLowerCase();
  if (accepted.includes(type)) return type;
  const advice =
    type === "application/pdf"
      ? "PDF is not read; convert it: pdftotext -layout file.pdf file.txt"
      : `it must be ${accepted.join(", ")}.`;
  throw new ServiceError("unsupported_media_type", `${subject} is ${JSON.stringify(header.slice(0, 80))}; ${advice}`);
}

export function checked<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const unknown = issue.code === "unrecognized_keys" ? [issue.keys[0].slice(0, limits.adapterCharacters)] : [];
  const param = fieldName([...issue.path, ...unknown]);
  throw invalidRequest(messageOf(issue, param || "the body"), param || null);
}

/** Reads until the body ends or `declaredBytes` (its Content-Length) have arrived. Throws a ServiceError of status 400, 408 or 413. */
export async function readChunks(
  { body }: Request,
  declaredBytes: number | null,
  limitMs: number = limits.bodyMs,
  maxBytes: number = limits.bodyBytes,
): Promise<Uint8Array[]> {
  const maxChunks = limits.bodyChunks * (maxBytes / limits.bodyBytes);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  const reader = body?.getReader();
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    const message = `Only ${bytes} bytes of the body arrived within ${limitMs} ms, the maximum.`;
    late.reject(new ServiceError("body_too_slow", message));
  }, limitMs);
  const read = async () => {
    while (reader && bytes !== declaredBytes) {
      const { done, value } = await reader.read();
      if (done) return;
      bytes += value.byteLength;
      if (bytes > maxBytes) throw tooLarge(`at least ${bytes}`, maxBytes);
      chunks.push(value);
      if (chunks.length > maxChunks) {
        const message = `The body came in at least ${chunks.length} chunks, the maximum is ${maxChunks}.`;
        throw new ServiceError("invalid_request", message);
      }
    }
  };
  try {
    // One race for the whole body: with a race per chunk, the timeout's promise would keep a reaction for each chunk.
    await Promise.race([read(), late.promise]);
    return chunks;
  } catch (error) {
    // workerd stores the error of an aborted body. Until its `stack` is read, the error keeps request and response in RAM.
    if (error instanceof Error) void error.stack;
    // Cancelling would close the connection at once. local-worker.ts discards the unread part of a body that is too large.
    if (error instanceof ServiceError && error.kind === "body_too_large") reader?.releaseLock();
    else reader?.cancel(error).catch(() => undefined);
    if (error instanceof ServiceError) throw error;
    // Either the client disconnected, or the body's framing contradicts its headers.
    throw new ServiceError("invalid_request", `The body broke off after ${bytes} bytes.`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

const wholeUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

/** Decodes UTF-8. `what` names the text in the error: invalid_request with the offset of the first invalid byte. */
export function decoded(chunks: readonly Uint8Array[], what: string): string {
  try {
    if (chunks.length === 1) return wholeUtf8.decode(chunks[0]);
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });
    return chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join("") + decoder.decode();
  } catch (cause) {
    const offset = firstInvalid(joinArrays(Uint8Array, chunks));
    throw new ServiceError("invalid_request", `${what} is not valid UTF-8 at byte ${offset}.`, { cause });
  }
}

/** Offset of the first invalid UTF-8 sequence; the number of all bytes if every sequence is valid. */
function firstInvalid(bytes: Uint8Array): number {
  const fatal = () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const ofPieces = fatal();
  let piece = 0;
  try {
    for (; piece < bytes.length; piece += 4096) ofPieces.decode(bytes.subarray(piece, piece + 4096), { stream: true });
  } catch {
    // The invalid sequence may begin up to three bytes before this piece.
  }
  piece = Math.min(piece, bytes.length);
  let start = Math.max(0, piece - 3);
  while (start < piece && (bytes[start] & 0xc0) === 0x80) start++;
  const ofBytes = fatal();
  for (let i = start; i < bytes.length; i++) {
    try {
      if (ofBytes.decode(bytes.subarray(i, i + 1), { stream: true }) !== "") start = i + 1;
    } catch {
      return start;
    }
  }
  return start;
}

/** Throws invalid_request, also for more than `maxValues` values in lists and objects. */
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

/** Field names as in OpenAI's errors: `chameleon.adapter`, `stop[2]`. */
function fieldName(path: readonly PropertyKey[]): string {
  return path
    .map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`))
    .join("")
    .replace(/^\./, "");
}
