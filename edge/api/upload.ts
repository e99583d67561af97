/**
 * Reads the documents of a request: JSON as elsewhere, or files as they are: multipart/form-data, or one file as the body, which is
 * Markdown, plain text, HTML or JSONL. `?name=` then names the adapter and `?document=` the document.
 */
import type { Context } from "hono";
import { convert } from "html-to-text";
import type * as z from "zod";
import { joinArrays } from "../../shared/bytes.ts";
import { checkCallerJson } from "../../shared/contracts/caller-json.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import { bounded, checked, objectIn, smallBodyBytes } from "./body.ts";
import type { AppEnvironment, Dependencies } from "./dependencies.ts";
import { claimKey } from "./idempotency.ts";

const multipart = "multipart/form-data";
const html = "text/html";
const jsonLines = ["application/jsonl", "application/x-ndjson"];
const plain = ["text/markdown", "text/plain"];
const accepted = ["application/json", multipart, ...plain, html, jsonLines[0]];
/** Of a file in a form whose part has no type of its own. */
const typeOfEnding: Record<string, string> = {
  ...{ md: plain[0], markdown: plain[0], txt: plain[1], html, htm: html, jsonl: jsonLines[0], pdf: "application/pdf" },
};

const utf8 = new TextEncoder();

type UploadContext = Context<AppEnvironment>;
/** A field of the request that a schema checks. */
type Fields = Record<string, unknown>;

/** Reads a request and checks it against `schema`. Throws a ServiceError of status 400, 408, 413, 415, 429 or 503. */
export async function readUpload<T extends z.ZodType>(
  c: UploadContext,
  dependencies: Dependencies,
  schema: T,
): Promise<z.output<T>> {
  const header = c.req.header("content-type") ?? "";
  const type = mediaTypeOf(header);
  requireType(type, header, null);
  return received(c, dependencies, async (chunks) => {
    if (type === "application/json")
      return checked(schema, objectIn(decoded(chunks, "The body"), limits.documentValues));
    const { name, document = null, keep } = c.req.query();
    const named = { ...(name !== undefined && { name }), ...(keep !== undefined && { keep: flagOf(keep) }) };
    if (type !== multipart) {
      return checked(schema, { ...named, documents: documentsOf(type, decoded(chunks, "The body"), document) });
    }
    return checked(schema, { ...named, ...(await fieldsOfForm(chunks, header)) });
  });
}

/** Reads a form. Throws as `readUpload` does. */
export async function readForm<T>(
  c: UploadContext,
  dependencies: Dependencies,
  read: (form: FormData) => Promise<T>,
): Promise<T> {
  const header = c.req.header("content-type") ?? "";
  if (mediaTypeOf(header) !== multipart) {
    const message = `Content-Type is ${JSON.stringify(header.slice(0, 80))}; it must be ${multipart}.`;
    throw new ServiceError("unsupported_media_type", message);
  }
  return received(c, dependencies, async (chunks) => read(await formOf(chunks, header)));
}

function mediaTypeOf(header: string): string {
  return header.split(";")[0].trim().toLowerCase();
}

/** Receives a body, of which `read` is called while few others are in memory. */
async function received<T>(
  c: UploadContext,
  { bodyReads, documentReads }: Dependencies,
  read: (chunks: Uint8Array[]) => Promise<T>,
): Promise<T> {
  const { declaredBytes } = c.env;
  if (declaredBytes !== null && declaredBytes > limits.documentBodyBytes) throw tooLarge(declaredBytes, "");
  const maxBytes = Math.min(declaredBytes ?? limits.documentBodyBytes, limits.documentBodyBytes);
  if (maxBytes > smallBodyBytes) await c.get("admission").admit();
  // Large ones for all keys together: the isolate's memory holds few of them, and they keep no small ones out.
  const isLarge = maxBytes > limits.bodyBytes;
  const [reads, keyId] = isLarge ? [documentReads, ""] : [bodyReads, c.get("access").keyId];
  return reads.during(keyId, maxBytes, async () => {
    const limitMs = isLarge ? limits.documentBodyMs : limits.bodyMs;
    const chunks = await bounded(c.req.raw, limitMs, (reader, arrived) => readChunks(reader, arrived));
    const value = await read(chunks);
    // Each try of a client gives a form other boundaries, so what it says is compared.
    const isForm = mediaTypeOf(c.req.header("content-type") ?? "") === multipart;
    const asText = (_: string, field: unknown) => (field instanceof Uint8Array ? field.toBase64() : field);
    await claimKey(c, () => (isForm ? utf8.encode(JSON.stringify(value, asText)) : joinArrays(Uint8Array, chunks)));
    return value;
  });
}

function requireType(type: string, shown: string, file: string | null): void {
  const subject = file === null ? "Content-Type" : `The type of ${JSON.stringify(file.slice(0, 80))}`;
  const value = JSON.stringify(shown.slice(0, 80));
  if (type === "application/pdf") {
    const message = `${subject} is ${value}, which is not read; convert it: pdftotext -layout file.pdf file.txt`;
    throw new ServiceError("unsupported_media_type", message);
  }
  if (accepted.includes(type) || jsonLines.includes(type)) return;
  throw new ServiceError("unsupported_media_type", `${subject} is ${value}; it must be ${accepted.join(", ")}.`);
}

function tooLarge(bytes: number, relation: string): ServiceError {
  const message = `The body has ${relation}${bytes} bytes, the maximum is ${limits.documentBodyBytes}.`;
  return new ServiceError("body_too_large", message);
}

/** As many for each byte as any body may have. */
const maxChunks = limits.bodyChunks * (limits.documentBodyBytes / limits.bodyBytes);

async function readChunks(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  arrived: { bytes: number; chunks: number },
): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return chunks;
    arrived.bytes += value.byteLength;
    arrived.chunks++;
    if (arrived.bytes > limits.documentBodyBytes) throw tooLarge(arrived.bytes, "at least ");
    if (arrived.chunks > maxChunks) {
      const message = `The body came in at least ${arrived.chunks} chunks, the maximum is ${maxChunks}.`;
      throw new ServiceError("invalid_request", message);
    }
    chunks.push(value);
  }
}

/** Throws invalid_request with the offset of the first byte that is not UTF-8. */
export function decoded(chunks: readonly Uint8Array[], what: string): string {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });
  try {
    return chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join("") + decoder.decode();
  } catch (cause) {
    const offset = firstInvalid(joinArrays(Uint8Array, chunks));
    throw new ServiceError("invalid_request", `${what} is not valid UTF-8 at byte ${offset}.`, { cause });
  }
}

/** Where the first sequence starts that is not UTF-8, of which a decoder makes U+FFFD; the length if there is none. */
function firstInvalid(bytes: Uint8Array): number {
  let offset = 0;
  for (const text of new TextDecoder("utf-8", { fatal: false, ignoreBOM: true }).decode(bytes).split("\ufffd")) {
    offset += utf8.encode(text).length;
    // The document may have that character itself.
    if (![0xef, 0xbf, 0xbd].every((byte, i) => bytes[offset + i] === byte)) return offset;
    offset += 3;
  }
  return bytes.length;
}

/** The documents of one file; `name` is its own, or the prefix of those of a JSONL file. */
function documentsOf(type: string, text: string, name: string | null): unknown[] {
  if (!jsonLines.includes(type)) return [{ name, text: type === html ? textOfHtml(text) : text }];
  checkCallerJson(text, limits.documentValues);
  return linesOf(text).map((line, i) => {
    const value: unknown = lineValue(line, i);
    const own = typeof value === "object" && value !== null && "name" in value;
    return own || name === null || typeof value === "object" ? value : { name: `${name}:${i + 1}`, text: value };
  });
}

/** Those that are not blank. Throws invalid_request for more than there may be documents. */
function linesOf(text: string): string[] {
  const lines: string[] = [];
  for (let start = 0; start < text.length; ) {
    const found = text.indexOf("\n", start);
    const end = found < 0 ? text.length : found;
    const line = text.slice(start, end);
    start = end + 1;
    if (line.trim() === "") continue;
    lines.push(line);
    if (lines.length > limits.documents) throw tooMany("lines", lines.length, limits.documents);
  }
  return lines;
}

function tooMany(what: string, count: number, maximum: number): ServiceError {
  return invalidRequest(`the body has at least ${count} ${what}, the maximum is ${maximum}`, "documents");
}

function lineValue(line: string, i: number): unknown {
  try {
    return JSON.parse(line);
  } catch {
    const message = `line ${i + 1} is not JSON; each line must be a string, or an object with a text`;
    throw invalidRequest(message, "documents");
  }
}

/** Without markup; addresses of links and pictures are no text of the document. Elements nested deeper are dropped. */
function textOfHtml(markup: string): string {
  let tags = 0;
  // What it is read into takes most of a kilobyte a tag.
  for (let at = markup.indexOf("<"); at >= 0; at = markup.indexOf("<", at + 1)) {
    if (++tags > limits.htmlTags) throw tooMany("HTML tags", tags, limits.htmlTags);
  }
  return convert(markup, {
    wordwrap: false,
    limits: { maxInputLength: limits.documentBodyBytes, maxDepth: limits.htmlNesting },
    selectors: [
      { selector: "a", options: { ignoreHref: true } },
      { selector: "img", format: "skip" },
    ],
  });
}

/** `name`, `keep`, `examples` (texts) and `documents` (files or texts) of a form. */
async function fieldsOfForm(chunks: readonly Uint8Array[], contentType: string): Promise<Fields> {
  const form = await formOf(chunks, contentType);
  const fields: Fields = {};
  const documents: unknown[] = [];
  const examples: string[] = [];
  for (const [field, value] of form.entries() as IterableIterator<[string, string | File]>) {
    if (typeof value !== "string") documents.push(...(await documentsOfFile(value)));
    else if (field === "documents") documents.push(value);
    else if (field === "examples") examples.push(value);
    else fields[field] = field === "keep" ? flagOf(value) : value;
    if (documents.length > limits.documents) throw tooMany("documents", documents.length, limits.documents);
  }
  if (examples.length > 0) fields.examples = examples;
  return documents.length > 0 ? { ...fields, documents } : fields;
}

/** A boolean as text; anything else is left to the schema. */
function flagOf(text: string): unknown {
  return text === "true" || (text === "false" ? false : text);
}

function formOf(chunks: readonly Uint8Array[], contentType: string): Promise<FormData> {
  const body = joinArrays(Uint8Array, chunks);
  requireFewParts(body, contentType);
  return new Response(body, { headers: { "content-type": contentType } }).formData().catch((cause) => {
    throw noForm(cause);
  });
}

/** Most parts of a form, with a name, `keep` and the end. */
const maxParts = limits.documents + limits.adapterExamples + 3;
const newline = 0x0a;

/** Throws invalid_request for more parts than a form may have: they take memory beside their text. */
function requireFewParts(body: Uint8Array, contentType: string): void {
  const [named, ...others] = [...contentType.matchAll(/boundary="?([^";\s]*)/gi)];
  if (!named || others.length > 0) throw noForm();
  const start = new TextEncoder().encode(`--${named[1]}`);
  let parts = 0;
  for (let at = 0; ; ) {
    if (start.every((byte, i) => body[at + i] === byte) && ++parts > maxParts) throw tooMany("parts", parts, maxParts);
    const end = body.indexOf(newline, at);
    if (end < 0) return;
    at = end + 1;
  }
}

function noForm(cause?: unknown): ServiceError {
  return new ServiceError("invalid_request", "The body is not a form as its Content-Type says.", { cause });
}

async function documentsOfFile(file: File): Promise<unknown[]> {
  const ending = file.name.split(".").at(-1)!.toLowerCase();
  const type = typeOfEnding[ending] ?? file.type.split(";")[0].trim().toLowerCase();
  requireType(type, type, file.name);
  if (type === "application/json" || type === multipart) {
    const message = `${JSON.stringify(file.name.slice(0, 80))} is JSON; send JSONL: a document a line.`;
    throw new ServiceError("unsupported_media_type", message);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  return documentsOf(type, decoded([bytes], JSON.stringify(file.name.slice(0, 80))), file.name);
}
