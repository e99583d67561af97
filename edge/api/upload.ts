/** Reads a request's documents from JSON, a form, or one file. For one file, `?name=` names the adapter and `?document=` the document. */
import { convert } from "html-to-text";
import type * as z from "zod";
import { joinArrays } from "../../shared/bytes.ts";
import { checkCallerJson } from "../../shared/contracts/caller-json.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import { checked, decoded, objectIn, receiveBody, requireMediaType } from "./body.ts";
import type { AppContext, Dependencies } from "./dependencies.ts";

const json = "application/json";
const multipart = "multipart/form-data";
const html = "text/html";
const jsonLines = ["application/jsonl", "application/x-ndjson"];
const documentTypes = ["text/markdown", "text/plain", html, ...jsonLines];
/** These types override the type that a form declares for a file. */
const typeOfEnding: Record<string, string> = {
  ...{ md: "text/markdown", markdown: "text/markdown", txt: "text/plain", html, htm: html, jsonl: jsonLines[0] },
  pdf: "application/pdf",
};

type Reads = Pick<Dependencies, "bodyReads" | "documentReads">;
type Fields = Record<string, unknown>;

/** Throws a ServiceError of status 400, 408, 413, 415, 429 or 503. */
export function readUpload<T extends z.ZodType>(c: AppContext, reads: Reads, schema: T): Promise<z.output<T>> {
  const type = requireMediaType(c.req.header("content-type"), [json, multipart, ...documentTypes]);
  const { name, document = null, keep } = c.req.query();
  const named = { ...(name !== undefined && { name }), ...(keep !== undefined && { keep: flagOf(keep) }) };
  if (type === multipart) {
    return readForm(c, reads, async (form) => checked(schema, { ...named, ...(await fieldsOfForm(form)) }));
  }
  return receiveBody(c, reads, limits.documentBodyBytes, (chunks) => {
    const text = decoded(chunks, "The body");
    if (type === json) return checked(schema, objectIn(text, limits.documentValues));
    return checked(schema, { ...named, documents: documentsOf(type, text, document) });
  });
}

export function readForm<T>(c: AppContext, reads: Reads, read: (form: FormData) => Promise<T>): Promise<T> {
  const header = c.req.header("content-type") ?? "";
  requireMediaType(header, [multipart]);
  // The idempotency key is claimed for the form's fields, because a client chooses a new boundary for each try.
  const asText = (_: string, field: unknown) => (field instanceof Uint8Array ? field.toBase64() : field);
  return receiveBody(
    c,
    reads,
    limits.documentBodyBytes,
    async (chunks) => read(await formOf(chunks, header)),
    (value) => new TextEncoder().encode(JSON.stringify(value, asText)),
  );
}

/** `name`: the document's name or, in a JSONL file, the prefix of the documents' names. */
function documentsOf(type: string, text: string, name: string | null): unknown[] {
  if (!jsonLines.includes(type)) return [{ name, text: type === html ? textOfHtml(text) : text }];
  const documents: unknown[] = [];
  const rule = "each line must be a string, or an object with a text";
  for (const [, value] of jsonLinesOf(text, (at) => invalidRequest(`${at} is not JSON; ${rule}`, "documents"))) {
    const isNamed = name !== null && typeof value !== "object";
    documents.push(isNamed ? { name: `${name}:${documents.length + 1}`, text: value } : value);
    if (documents.length > limits.documents) throw tooMany("lines", documents.length, limits.documents);
  }
  return documents;
}

/** The parsed lines that are not blank, each with its line number (`line 3`). Throws `refusal` for a line that is not JSON. */
export function* jsonLinesOf(text: string, refusal: (at: string) => ServiceError): Generator<[at: string, unknown]> {
  checkCallerJson(text, limits.documentValues);
  // Not `split`: a file of line breaks alone would make millions of strings.
  for (let start = 0, number = 1; start < text.length; number++) {
    const found = text.indexOf("\n", start);
    const end = found < 0 ? text.length : found;
    const line = text.slice(start, end);
    start = end + 1;
    if (line.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      throw refusal(`line ${number}`);
    }
    yield [`line ${number}`, value];
  }
}

function tooMany(what: string, count: number, maximum: number): ServiceError {
  return invalidRequest(`the body has at least ${count} ${what}, the maximum is ${maximum}`, "documents");
}

/** The text without addresses of links and pictures. Elements nested too deeply are dropped. */
function textOfHtml(markup: string): string {
  let tags = 0;
  // The parser takes almost a kilobyte of RAM for each tag.
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

async function fieldsOfForm(form: FormData): Promise<Fields> {
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

/** Documents, examples, `name`, `keep` and the closing boundary. */
const maxParts = limits.documents + limits.adapterExamples + 3;
const newline = 0x0a;

/** Throws invalid_request for too many parts, because parsing them takes RAM in addition to their text. */
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
  const shown = JSON.stringify(file.name.slice(0, 80));
  const ending = file.name.split(".").at(-1)!.toLowerCase();
  const type = requireMediaType(typeOfEnding[ending] ?? file.type, documentTypes, `The type of ${shown}`);
  return documentsOf(type, decoded([new Uint8Array(await file.arrayBuffer())], shown), file.name);
}
