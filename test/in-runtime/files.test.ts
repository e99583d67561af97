/** OpenAI's files, in a tenant's real store. */
import { describe, expect, test } from "vitest";
import { type FileObject, fileListSchema, fileSchema } from "../../shared/contracts/fine-tuning.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { plans, scopes } from "../../shared/contracts/tenants.ts";
import { errorOf, useNetwork } from "./harness.ts";
import { useTenant } from "./tenant.ts";

useNetwork();

let ids = 0;
const own = useTenant("files", () => ({ newId: () => `id-${ids++}` }));
const { app, rows } = own;

const pair = (prompt: string, completion: string) => JSON.stringify({ prompt, completion });
const chat = JSON.stringify({
  messages: [
    { role: "user", content: "aab" },
    { role: "assistant", content: "b" },
  ],
});
const lines = [pair("aaab", "b"), chat, "", pair("é", "a")].join("\n");

function upload(content: string | Uint8Array<ArrayBuffer>, fields: Record<string, string> = {}, opened = app()) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ purpose: "fine-tune", ...fields })) form.append(name, value);
  form.append("file", new File([content], "examples.jsonl"));
  return opened.request("/v1/files", { method: "POST", body: form });
}
const get = (path: string, init?: RequestInit) => app().request(path, init);
const uploaded = (content = lines) => own.uploaded([content]);
const storedRows = async () => ({
  records: (await rows("SELECT * FROM records")).length,
  documentParts: (await rows("SELECT * FROM documentParts")).length,
});

test("a file is listed, retrieved with its bytes, and deleted, by its tenant alone", async () => {
  const made = await upload(lines);
  expect(made.status, await made.clone().text()).toBe(200);
  const file = fileSchema.strict().parse(await made.json());
  expect(file).toMatchObject({ bytes: new TextEncoder().encode(lines).length, filename: "examples.jsonl" });
  expect(await (await get(`/v1/files/${file.id}`)).json()).toEqual(file);
  expect(await (await get(`/v1/files/${file.id}/content`)).text()).toBe(lines);
  for (const [method, path] of [
    ["GET", `/v1/files/${file.id}`],
    ["GET", `/v1/files/${file.id}/content`],
    ["DELETE", `/v1/files/${file.id}`],
  ]) {
    expect(await errorOf(await app().request(path, { method, headers: own.theirs }))).toMatchObject({
      ...{ status: 404, code: "not_found" },
      message: `You have no file ${JSON.stringify(file.id)}.`,
    });
  }
  expect(await (await get("/v1/files", { headers: own.theirs })).json()).toMatchObject({
    data: [],
    first_id: null,
    has_more: false,
  });

  const removed = await app().request(`/v1/files/${file.id}`, { method: "DELETE" });
  expect(await removed.json()).toEqual({ id: file.id, object: "file", deleted: true });
  expect((await get(`/v1/files/${file.id}/content`)).status).toBe(404);
  expect(await storedRows()).toEqual({ records: 0, documentParts: 0 });
});

test("no byte of a file is stored in clear", async () => {
  await uploaded(pair("a secret of the tenant", "b").repeat(1));
  const clear = (await rows("SELECT * FROM documentParts"))
    .flatMap((row) => Object.values(row))
    .map((value) => (value instanceof ArrayBuffer ? new TextDecoder("latin1").decode(value) : String(value)));
  expect(clear.length).toBeGreaterThan(0);
  for (const text of clear) expect(text).not.toContain("secret");
});

test("a large file comes back as it is", async () => {
  const large = Array.from({ length: limits.adapterExamples }, (_, i) => pair(`${i} ${"ab ".repeat(1300)}`, "b")).join(
    "\n",
  );
  expect(large.length).toBeGreaterThan(3_900_000);
  const { id } = await uploaded(large);
  expect(await (await get(`/v1/files/${id}/content`)).text()).toBe(large);
});

test("files are listed by page, either way", async () => {
  const all: FileObject[] = [];
  for (let i = 0; i < 5; i++) all.push(await uploaded(pair(`${i}`, "a")));
  const names = async (query: string) => {
    const response = await get(`/v1/files${query}`);
    expect(response.status, await response.clone().text()).toBe(200);
    const page = fileListSchema.strict().parse(await response.json());
    expect([page.first_id, page.last_id]).toEqual([page.data.at(0)?.id ?? null, page.data.at(-1)?.id ?? null]);
    return [page.has_more, ...page.data.map(({ id }) => all.findIndex((one) => one.id === id))];
  };
  expect(await names("")).toEqual([false, 4, 3, 2, 1, 0]);
  expect(await names("?limit=2")).toEqual([true, 4, 3]);
  expect(await names(`?limit=2&after=${all[3].id}`)).toEqual([true, 2, 1]);
  expect(await names(`?limit=2&after=${all[2].id}`)).toEqual([false, 1, 0]);
  expect(await names(`?order=asc&limit=3&after=${all[0].id}`)).toEqual([true, 1, 2, 3]);
  expect(await names("?purpose=fine-tune&limit=1")).toEqual([true, 4]);
  expect(await names("?purpose=batch")).toEqual([false]);
  for (const [query, param] of [
    ["?after=file-0", "after"],
    ["?limit=0", "limit"],
    ["?limit=1001", "limit"],
    ["?limit=x", "limit"],
    ["?order=up", "order"],
  ]) {
    expect(await errorOf(await get(`/v1/files${query}`)), query).toMatchObject({ status: 400, param });
  }
});

describe("is refused by name, and nothing is stored:", () => {
  const tooMany = Array(limits.adapterExamples + 1)
    .fill(pair("a", "b"))
    .join("\n");
  const cases: [string, string | Uint8Array<ArrayBuffer>, Record<string, string>, string, string][] = [
    ["another purpose", lines, { purpose: "batch" }, "purpose", 'purpose is "batch"; only "fine-tune" is supported'],
    ["an expiry", lines, { "expires_after[seconds]": "3600" }, "expires_after", "a file is kept until you delete it"],
    ["no JSON", `${chat}\n\n{"prompt"`, {}, "file", "line 3 of file is not JSON"],
    ["a string", '"a text"', {}, "file", "line 1 of file is a string; it must be {messages} or {prompt, completion}"],
    ["an empty completion", `${chat}\n${pair("a", "")}`, {}, "file", "line 2 of file.completion is empty"],
    ["a chat that ends with a question", '{"messages":[{"role":"user","content":"a"}]}', {}, "file", "line 1 of file"],
    ["no line", "\n \n", {}, "file", "file has no line with an example"],
    ["too many lines", tooMany, {}, "file", "line 1025 of file is one more than 1024 examples, the maximum"],
    ["too many bytes", "a".repeat(limits.fileBytes + 1), {}, "file", "file has 4194305 bytes, the maximum is 4194304"],
  ];
  test.each(cases)("%s", async (_, content, fields, param, message) => {
    const error = await errorOf(await upload(content, fields));
    expect(error).toMatchObject({ status: 400, param });
    expect(error.message).toContain(message);
    expect(await storedRows()).toEqual({ records: 0, documentParts: 0 });
  });

  test("what is not UTF-8, with the byte", async () => {
    expect(await errorOf(await upload(new Uint8Array([0x22, 0xff, 0x22])))).toMatchObject({
      ...{ status: 400, message: "file is not valid UTF-8 at byte 1." },
    });
  });

  test("no file at all, and no form", async () => {
    const form = new FormData();
    form.append("purpose", "fine-tune");
    const without = await app().request("/v1/files", { method: "POST", body: form });
    expect(await errorOf(without)).toMatchObject({ status: 400, param: "file" });
    expect((await errorOf(await app().post("/v1/files", {}))).status).toBe(415);
  });

  test("more bytes than the plan has, together", async () => {
    const access = { tenant: own.tenant, keyId: "k", scopes: [...scopes], limits: plans.unlimited, memoryTokens: null };
    const limited = app({
      keys: { accessOf: async () => ({ ...access, origins: [], fileBytes: lines.length + 100 }) },
    });
    expect((await upload(lines, {}, limited)).status).toBe(200);
    const error = await errorOf(await upload(lines, {}, limited));
    expect(error).toMatchObject({ status: 403, code: "adapter_quota_exceeded" });
    expect(error.message).toMatch(
      /^Your files would have \d+ bytes together, the maximum is \d+; delete some first\.$/,
    );
    expect((await storedRows()).records).toBe(1);
  });
});

test("files are erased with their tenant", async () => {
  own.backendMakes();
  const { id } = await uploaded();
  const erased = await app().request(`/admin/v1/tenants/${own.tenant}`, { method: "DELETE" });
  expect(erased.status, await erased.clone().text()).toBe(200);
  expect((await get(`/v1/files/${id}`)).status).toBe(404);
  expect(await storedRows()).toEqual({ records: 0, documentParts: 0 });
  // An upload that comes just after the erasure may have been sent before it, so it is refused.
  expect(await errorOf(await upload(lines))).toMatchObject({ status: 403 });
});
