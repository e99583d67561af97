/** OpenAI's files: JSONL with examples for fine-tuning jobs. Each line is checked at the upload. */
import { type Example, readExample } from "../../shared/contracts/examples.ts";
import * as tuning from "../../shared/contracts/fine-tuning.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest, ServiceError } from "../../shared/errors.ts";
import { throwRefusal } from "../tenants/own-adapters.ts";
import { filesList } from "../tenants/record-lists.ts";
import { gunzip } from "../tenants/sealed-store.ts";
import type { FileRecord } from "../tenants/tenant-files.ts";
import { answer, answerList } from "./answer.ts";
import { checked, decoded } from "./body.ts";
import type { AppContext, Dependencies, RouteHandler } from "./dependencies.ts";
import { originOf } from "./idempotency.ts";
import { jsonLinesOf, readForm } from "./upload.ts";

export const createFile: RouteHandler = async (c, dependencies) => {
  const { tenant, fileBytes } = c.get("access");
  const { adapters } = dependencies;
  const { filename, content } = await readForm(c, dependencies, uploadOf);
  const origin = originOf(c, dependencies);
  const id = `file-${origin.id}`;
  const made = c.get("repeatable") && (await adapters.of(tenant).record(filesList, id));
  if (made) return c.json(fileObject(made as FileRecord));
  const created = Math.floor(origin.createdMs / 1000);
  const file: FileRecord = { id, filename, bytes: content.length, created };
  throwRefusal(await adapters.of(tenant).addFile(file, content, fileBytes));
  return c.json(fileObject(file));
};

export const listFiles: RouteHandler = async (c, dependencies) => {
  const { purpose = "fine-tune", ...query } = checked(tuning.fileListQuerySchema, c.req.query());
  if (purpose !== "fine-tune") return answerList(c, dependencies, [], { others: emptyPage });
  return answerPage(c, dependencies, filesList, query, fileObject);
};

export const getFile: RouteHandler = async (c, dependencies) =>
  c.json(fileObject(await requireRecord<FileRecord>(c, dependencies, filesList, "file")));

export const getFileContent: RouteHandler = async (c, dependencies) => {
  const id = c.req.param("id") ?? "";
  const compressed = await dependencies.adapters.of(c.get("access").tenant).fileContent(id);
  if (!compressed) throw absent("file", id);
  const content = await gunzip(compressed);
  const headers = { "content-type": "application/octet-stream" };
  return answer(c, dependencies, slicesOf(content), { headers, retainedBytes: content.length });
};

export const deleteFile: RouteHandler = async (c, { adapters }) => {
  const id = c.req.param("id") ?? "";
  if (!(await adapters.of(c.get("access").tenant).removeFile(id))) throw absent("file", id);
  return c.json({ id, object: "file", deleted: true } satisfies tuning.FileDeleted);
};

/** Throws invalid_request that names the line. `param`: the field at fault. */
export function examplesOf(text: string, param: string): Example[] {
  const refuse = (message: string) => invalidRequest(message, param);
  const examples: Example[] = [];
  for (const [line, value] of jsonLinesOf(text, (at) => refuse(`${at} of ${param} is not JSON`))) {
    const at = `${line} of ${param}`;
    if (examples.length === limits.adapterExamples) {
      throw refuse(`${at} is one more than ${examples.length} examples, the maximum`);
    }
    const example = readExample(value, at);
    if (typeof example === "string") throw refuse(`${at} is a string; it must be {messages} or {prompt, completion}`);
    if ("fault" in example) throw refuse(example.fault);
    examples.push(example);
  }
  if (examples.length === 0) throw refuse(`${param} has no line with an example`);
  return examples;
}

export const emptyPage = { has_more: false, first_id: null, last_id: null };

/** Answers with a page of one of the tenant's lists. Throws invalid_request if the list has no record with the id `after`. */
export async function answerPage<T, U extends { id: string }>(
  c: AppContext,
  dependencies: Dependencies,
  list: string,
  { limit, after = null, order = "desc" }: { limit: number; after?: string | null; order?: "asc" | "desc" },
  objectOf: (record: T) => U,
): Promise<Response> {
  const page = await dependencies.adapters.of(c.get("access").tenant).page(list, { limit, after, order });
  if (!page)
    throw invalidRequest(`after is ${JSON.stringify(after?.slice(0, 80))}, which the list does not have`, "after");
  const data = (page.records as T[]).map(objectOf);
  const others = { has_more: page.hasMore, first_id: data.at(0)?.id ?? null, last_id: data.at(-1)?.id ?? null };
  return answerList<tuning.PageOf<U>>(c, dependencies, data, { others });
}

export async function requireRecord<T>(
  c: AppContext,
  { adapters }: Dependencies,
  list: string,
  what: string,
): Promise<T> {
  const id = c.req.param("id") ?? "";
  const record = await adapters.of(c.get("access").tenant).record(list, id);
  if (!record) throw absent(what, id);
  return record as T;
}

function absent(what: string, id: string): ServiceError {
  return new ServiceError("not_found", `You have no ${what} ${JSON.stringify(id.slice(0, 80))}.`);
}

function fileObject({ id, bytes, filename, created }: FileRecord): tuning.FileObject {
  return { id, object: "file", bytes, created_at: created, filename, purpose: "fine-tune", status: "processed" };
}

async function uploadOf(form: FormData): Promise<{ filename: string; content: Uint8Array }> {
  const [purpose, file] = [form.get("purpose"), form.get("file") as File | string | null];
  if (purpose !== "fine-tune") {
    const value = typeof purpose === "string" ? JSON.stringify(purpose.slice(0, 80)) : "absent";
    throw invalidRequest(`purpose is ${value}; only "fine-tune" is supported`, "purpose");
  }
  const expiry = [...form.keys()].find((field) => field.startsWith("expires_after"));
  if (expiry)
    throw invalidRequest("expires_after is not supported: a file is kept until you delete it", "expires_after");
  if (file === null || typeof file === "string") throw invalidRequest("file is absent, or no file", "file");
  const { fileBytes, documentNameCharacters: most } = limits;
  if (file.name.length > most) {
    throw invalidRequest(`the name of file has ${file.name.length} characters, the maximum is ${most}`, "file");
  }
  if (file.size > fileBytes) throw invalidRequest(`file has ${file.size} bytes, the maximum is ${fileBytes}`, "file");
  const content = new Uint8Array(await file.arrayBuffer());
  examplesOf(decoded([content], "file"), "file");
  return { filename: file.name, content };
}

function* slicesOf(bytes: Uint8Array): Generator<Uint8Array> {
  const sliceBytes = 65_536;
  for (let at = 0; at < bytes.length; at += sliceBytes) yield bytes.subarray(at, at + sliceBytes);
}
