/** OpenAI's files, in a tenant's real store. */
import { describe, expect, test } from "vitest";
import { type FileObject, fileListSchema, fileSchema } from "../../shared/contracts/fine-tuning.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { errorOf, expectError, jsonOf } from "./answers.ts";
import { useTenant } from "./tenant.ts";

let ids = 0;
const own = useTenant("files", () => ({ newId: () => `id-${ids++}` }));
const { app, rows } = own;

const pair = (prompt: string, completion: string) => JSON.stringify({ prompt, completion });
const messages = ["user", "assistant"].map((role) => ({ role, content: "aab" }));
const chat = JSON.stringify({ messages });
const lines = [pair("aaab", "b"), chat, "", pair("é", "a")].join("\n");

function upload(content: string | Uint8Array<ArrayBuffer>, fields: Record<string, string> = {}, opened = app()) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ purpose: "fine-tune", ...fields })) form.append(name, value);
  form.append("file", new File([content], "examples.jsonl"));
  return opened.request("/v1/files", { method: "POST", body: form });
}
const get = (path: string, init?: RequestInit) => app().request(path, init);
const uploaded = (content = lines) => own.uploaded([content]);
const storedRows = async () => [
  (await rows("SELECT * FROM records")).length,
  (await rows("SELECT * FROM documentParts")).length,
];

test("a file is listed, retrieved with its bytes, and deleted, by its tenant alone", async () => {
  const file = fileSchema.strict().parse(await jsonOf(upload(lines)));
  expect(file).toMatchObject({ bytes: new TextEncoder().encode(lines).length, filename: "examples.jsonl" });
  expect(await jsonOf(get(`/v1/files/${file.id}`))).toEqual(file);
  expect(await (await get(`/v1/files/${file.id}/content`)).text()).toBe(lines);
  const theirs = { headers: own.theirs };
  const message = `You have no file ${JSON.stringify(file.id)}.`;
  for (const [method, rest] of [
    ["GET", ""],
    ["GET", "/content"],
    ["DELETE", ""],
  ]) {
    const missed = get(`/v1/files/${file.id}${rest}`, { method, ...theirs });
    await expectError(missed, { status: 404, code: "not_found", message });
  }
  expect(await jsonOf(get("/v1/files", theirs))).toMatchObject({ data: [], first_id: null, has_more: false });

  const removed = await jsonOf(get(`/v1/files/${file.id}`, { method: "DELETE" }));
  expect(removed).toEqual({ id: file.id, object: "file", deleted: true });
  expect((await get(`/v1/files/${file.id}/content`)).status).toBe(404);
  expect(await storedRows()).toEqual([0, 0]);
});

test("no byte of a file is stored in clear", async () => {
  await uploaded(pair("a secret of the tenant", "b"));
  const clear = await own.valuesIn("documentParts");
  expect(clear.length).toBeGreaterThan(0);
  for (const text of clear) expect(text).not.toContain("secret");
});

test("a large file comes back as it is", async () => {
  const examples = Array.from({ length: limits.adapterExamples }, (_, i) => pair(`${i} ${"ab ".repeat(1300)}`, "b"));
  const large = examples.join("\n");
  expect(large.length).toBeGreaterThan(3_900_000);
  const { id } = await uploaded(large);
  expect(await (await get(`/v1/files/${id}/content`)).text()).toBe(large);
});

test("files are listed by page, either way", async () => {
  const all: FileObject[] = [];
  for (let i = 0; i < 5; i++) all.push(await uploaded(pair(`${i}`, "a")));
  const names = async (query: string) => {
    const page = fileListSchema.strict().parse(await jsonOf(get(`/v1/files${query}`)));
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
    expect(await errorOf(get(`/v1/files${query}`)), query).toMatchObject({ status: 400, param });
  }
});

describe("is refused by name, and nothing is stored:", () => {
  const tooMany = `${pair("a", "b")}\n`.repeat(limits.adapterExamples + 1);
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
    await expectError(upload(content, fields), { status: 400, param, mentions: message });
    expect(await storedRows()).toEqual([0, 0]);
  });

  test("what is not UTF-8, with the byte", async () => {
    const message = "file is not valid UTF-8 at byte 1.";
    await expectError(upload(new Uint8Array([0x22, 0xff, 0x22])), { status: 400, message });
  });

  test("no file at all, and no form", async () => {
    const form = new FormData();
    form.append("purpose", "fine-tune");
    await expectError(get("/v1/files", { method: "POST", body: form }), { status: 400, param: "file" });
    await expectError(app().post("/v1/files", {}), { status: 415 });
  });

  test("more bytes than the plan has, together", async () => {
    const limited = app(own.keysWith({ fileBytes: lines.length + 100 }));
    expect((await upload(lines, {}, limited)).status).toBe(200);
    const mentions = /^Your files would have \d+ bytes together, the maximum is \d+; delete some first\.$/;
    await expectError(upload(lines, {}, limited), { status: 403, code: "adapter_quota_exceeded", mentions });
    expect((await storedRows())[0]).toBe(1);
  });
});

test("files are erased with their tenant", async () => {
  own.backendMakes();
  const { id } = await uploaded();
  await jsonOf(app().request(`/admin/v1/tenants/${own.tenant}`, { method: "DELETE" }));
  expect((await get(`/v1/files/${id}`)).status).toBe(404);
  expect(await storedRows()).toEqual([0, 0]);
  // The upload may have been sent before the erasure, so it is refused.
  await expectError(upload(lines), { status: 403 });
});
