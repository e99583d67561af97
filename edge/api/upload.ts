/**
 * Reads the documents of a request: JSON as elsewhere, or files as they are: multipart/form-data, or one file as the body, which is
 * Markdown, plain text, HTML or JSONL. `?name=` then names the adapter and `?document=` the document.
 */
import type { Context } from "hono";
import { convert } from "html-to-text";
import type { z } from "zod";
import { joinArrays } from "../../shared/bytes.ts";
import { checkCallerJson } from "../../shared/contracts/caller-json.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { bounded, checked, objectIn, smallBodyBytes } from "./body.ts";
import type { AppEnvironment, Dependencies } from "./dependencies.ts";

const multipart = "multipart/form-data";
const html = "text/html";
const jsonLines = ["application/jsonl", "application/x-ndjson"];
const plain = ["text/markdown", "text/plain"];
const accepted = ["application/json", multipart, ...plain, html, jsonLines[0]];
/** Of a file in a form whose part has no type of its own. */
const typeOfEnding: Record<string, string> = {
  ...{ md: plain[0], markdown: plain[0], txt: plain[1], html, htm: html, jsonl: jsonLines[0], pdf: "application/pdf" },
};

type UploadContext = Context<AppEnvironment>;
/** A field of the request that a schema checks. */
type Fields = Record<string, unknown>;

/** Reads a request and checks it against `schema`. Throws a ServiceError of status 400, 408, 413, 415, 429 or 503. */
export async function readUpload<T extends z.ZodType>(
  c: UploadContext,
  { documentReads }: Dependencies,
  schema: T,
): Promise<z.output<T>> {
  const { declaredBytes } = c.env;
  const header = c.req.header("content-type") ?? "";
  const type = header.split(";")[0].trim().toLowerCase();
  requireType(type, header, null);
  if (declaredBytes !== null && declaredBytes > limits.documentBodyBytes) throw tooLarge(declaredBytes, "");
  const maxBytes = Math.min(declaredBytes ?? limits.documentBodyBytes, limits.documentBodyBytes);
  if (maxBytes > smallBodyBytes) await c.get("admission").admit();
  // For all keys together: the isolate's memory holds few bodies of this size.
  return documentReads.during("", maxBytes, async () => {
    const chunks = await bounded(c.req.raw, limits.documentBodyMs, (reader, arrived) => readChunks(reader, arrived));
    if (type === "application/json") return checked(schema, objectIn(decoded(chunks, "The body")));
    const { name, document = null } = c.req.query();
    const named = name === undefined ? {} : { name };
    if (type !== multipart) {
      return checked(schema, { ...named, documents: documentsOf(type, decoded(chunks, "The body"), document) });
    }
    return checked(schema, { ...named, ...(await fieldsOfForm(chunks, header)) });
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

/** Where the first sequence starts that is not UTF-8 (RFC 3629); the length if there is none. */
function firstInvalid(bytes: Uint8Array): number {
  for (let i = 0; i < bytes.length; ) {
    const lead = bytes[i];
    const length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (length === 0) return i;
    for (let k = 1; k < length; k++) {
      const [from, to] = (k === 1 && secondBytes[lead]) || [0x80, 0xbf];
      if (!(bytes[i + k] >= from && bytes[i + k] <= to)) return i;
    }
    i += length;
  }
  return bytes.length;
}

/** By the first byte: overlong forms, surrogates and what is beyond U+10FFFF are none. */
const secondBytes: Record<number, [number, number]> = {
  ...{ 224: [0xa0, 0xbf], 237: [0x80, 0x9f], 240: [0x90, 0xbf], 244: [0x80, 0x8f] },
};

/** The documents of one file; `name` is its own, or the prefix of those of a JSONL file. */
function documentsOf(type: string, text: string, name: string | null): unknown[] {
  if (!jsonLines.includes(type)) return [{ name, text: type === html ? textOfHtml(text) : text }];
  checkCallerJson(text);
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  if (lines.length > limits.documents) {
    const message = `Invalid request: the file has ${lines.length} lines, the maximum is ${limits.documents}.`;
    throw new ServiceError("invalid_request", message, { param: "documents" });
  }
  return lines.map((line, i) => {
    const value: unknown = lineValue(line, i);
    const own = typeof value === "object" && value !== null && "name" in value;
    return own || name === null || typeof value === "object" ? value : { name: `${name}:${i + 1}`, text: value };
  });
}

function lineValue(line: string, i: number): unknown {
  try {
    return JSON.parse(line);
  } catch {
    const message = `Invalid request: line ${i + 1} is not JSON; each line must be a string, or an object with a text.`;
    throw new ServiceError("invalid_request", message, { param: "documents" });
  }
}

/** Without markup; addresses of links and pictures are no text of the document. Elements nested deeper are dropped. */
function textOfHtml(markup: string): string {
  return convert(markup, {
    wordwrap: false,
    limits: { maxInputLength: limits.documentBodyBytes, maxDepth: limits.htmlNesting },
    selectors: [
      { selector: "a", options: { ignoreHref: true } },
      { selector: "img", format: "skip" },
    ],
  });
}

/** `name`, `examples` (texts) and `documents` (files or texts) of a form. */
async function fieldsOfForm(chunks: readonly Uint8Array[], contentType: string): Promise<Fields> {
  const body = joinArrays(Uint8Array, chunks);
  const form = await new Response(body, { headers: { "content-type": contentType } }).formData().catch((cause) => {
    throw new ServiceError("invalid_request", "The body is not a form as its Content-Type says.", { cause });
  });
  const fields: Fields = {};
  const documents: unknown[] = [];
  for (const [field, value] of form.entries() as IterableIterator<[string, string | File]>) {
    if (typeof value !== "string") documents.push(...(await documentsOfFile(value)));
    else if (field === "documents") documents.push(value);
    else if (field === "examples") fields.examples = [...((fields.examples as string[] | undefined) ?? []), value];
    else fields[field] = value;
  }
  return documents.length > 0 ? { ...fields, documents } : fields;
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
