/** What `keep: false` deletes once an adapter is made. Stores and cells are real, the backend is scripted. */
import { runInDurableObject } from "cloudflare:test";
import { beforeEach, expect, test, vi } from "vitest";
import { unavailable } from "../../edge/dispatch/call-failure.ts";
import { AdapterRecords } from "../../edge/tenants/adapter-records.ts";
import type { TenantParts } from "../../edge/tenants/backend-copies.ts";
import { gzip, jsonBytes, SealedStore } from "../../edge/tenants/sealed-store.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";
import { type Changed, TenantMemories } from "../../edge/tenants/tenant-memories.ts";
import { expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, lacks, saying } from "./backend.ts";
import { useTenant, useTwoSets } from "./tenant.ts";

const sets = useTwoSets();
const own = useTenant("keep", sets.parts);
const { app, store, created, shown } = own;
const documents = ["aaab aaab aaab", { name: "second.md", text: "bbba" }];
const examples = ["aaaa", "bbb", "aab"];

beforeEach(() => void own.backendMakes());

const sealed = () =>
  own.rows<{ hash: string; kind: string }>("SELECT hash, kind FROM documentParts WHERE kind <> 'file'");
const addTo = (name: string) => app().post(`/v1/adapters/${name}/documents`, { documents: ["more"] });

test("the texts of an adapter are deleted once it is made, and the adapter says what is no longer possible", async () => {
  const kept = await created({ documents, examples }, "kept");
  expect(kept).toMatchObject({ keep: true, message: null, documents: [{}, {}] });
  const rows = await sealed();
  expect(rows.map(({ kind }) => kind).sort()).toEqual(["examples", "records", "texts"]);
  const other = await created({ documents: [...documents, "aa"], examples, keep: false }, "other");
  expect(other).toMatchObject({ keep: false, examples: 3, memory: { status: "ready", documents: 3 } });
  expect(other.message).toContain("it is not made again for other artifacts");
  expect(other.documents).toBeUndefined();
  expect(await sealed(), "nothing of the other one").toEqual(rows);

  const refused = { status: 400, param: "documents", message: expect.stringContaining("were not kept (keep: false)") };
  await expectError(addTo("other"), refused);
  const path = "/v1/adapters/other/documents/second.md";
  await expectError(app().request(path, { method: "DELETE" }), refused);
});

test("after a publication such an adapter answers while its own artifacts are loaded, and is gone afterwards", async () => {
  await created({ documents, keep: false }, "notes");
  await created({ examples, keep: false }, "labels");
  backendAnswers(({ id }) => saying(id, "ok"));
  await sets.serve(sets.after);
  await own.alarm();
  for (const name of ["notes", "labels"]) {
    const refit = { status: "failed", error: expect.stringContaining("not kept") };
    await vi.waitFor(async () => expect(await shown(name)).toMatchObject({ outdated: true, refit }));
    const body = { model: `gpt2:${name}`, prompt: "a", max_tokens: 2 };
    expect((await app().complete(body)).status).toBe(200);
    const { complete } = app({ artifactsOf: async () => null });
    await expectError(complete(body), { code: "adapter_outdated" });
  }
});

test("documents that another adapter keeps stay until that is deleted", async () => {
  await created({ documents, keep: false }, "first");
  expect(await sealed()).toEqual([]);
  const { memory } = await created({ documents }, "second");
  expect(memory!.hash).toBe((await shown("first")).memory!.hash);
  expect(await sealed()).toHaveLength(2);
  await created({ documents, keep: false }, "third");
  expect(await sealed()).toHaveLength(2);
  await own.remove("second");
  expect(await sealed()).toEqual([]);
  expect(await shown("first")).toMatchObject({ adapts: true });
});

test("documents added to an adapter whose examples were not kept are not kept, either", async () => {
  await created({ examples, keep: false }, "labels");
  expect((await addTo("labels")).status).toBe(200);
  expect(await sealed()).toEqual([]);
  expect(await shown("labels")).toMatchObject({ keep: false, memory: { documents: 1 } });
});

test("a backend that lacks such a memory ends the answer with an error that says why", async () => {
  await created({ documents, keep: false });
  backendStreams(() => lacks("memory_not_found"));
  const asked = app().complete({ model: "gpt2:notes", prompt: "aab" });
  await expectError(asked, { code: "memory_deleted", mentions: "its documents were not kept" });
});

test("a memory whose documents are not kept is given to every backend, though one fails; any other to one backend", async () => {
  const asked = await runInDurableObject(store(), async (_: TenantAdapterStore, { storage }) => {
    const seen: Record<string, string[]> = { kept: [], unkept: [] };
    const random = (count: number) => crypto.getRandomValues(new Uint8Array(count));
    const client = (name: string) => ({
      async putMemory(_tenant: string, hash: string) {
        seen[hash === hashes.kept ? "kept" : "unkept"].push(name);
        if (name === "b") throw unavailable("unreachable", "down", undefined);
      },
    });
    const memories = new TenantMemories(
      {
        ...{ tenant: own.tenant, storage, now: Date.now, sealed: new SealedStore(storage, random) },
        records: new AdapterRecords(storage.sql),
        clients: () => new Map(["a", "b", "c"].map((name) => [name, client(name)])),
        copies: { note() {}, keep() {}, deleteUnused: async () => {} },
        encoder: () => ({ documents: async () => [] }),
      } as unknown as TenantParts,
      () => undefined,
    );
    const hashes: Record<string, string> = {};
    for (const name of ["kept", "unkept"]) {
      const document = { name: null, text: name, tokens: 1, embedding: btoa("\0\0\0\0") };
      const added = await gzip(jsonBytes([document]));
      const change = { manifestHash: sets.served.manifestHash, added, keep: name === "kept" };
      hashes[name] = ((await memories.change(name, change, () => null)) as Changed).hash;
      expect(await memories.build(name)).toEqual({ status: "ready", error: null });
    }
    return seen;
  });
  expect(asked).toEqual({ kept: ["a"], unkept: ["a", "b", "c"] });
});

const post = (query: string, init: RequestInit) => app().request(`/v1/adapters${query}`, { method: "POST", ...init });
const form = new FormData();
for (const [name, value] of Object.entries({ name: "notes", documents: "aaab", keep: "false" }))
  form.append(name, value);
test.each<[string, () => Promise<Response>]>([
  [
    "a file as the body",
    () => post("?name=notes&keep=false", { body: "aaab", headers: { "content-type": "text/plain" } }),
  ],
  ["a form", () => post("", { body: form })],
])("%s can ask for keep: false, too", async (_, send) => {
  expect(await jsonOf(send(), 201)).toMatchObject({ keep: false });
  expect(await sealed()).toEqual([]);
});

test("anything but a boolean is refused, and nothing is made", async () => {
  const refused = app().post("/v1/adapters", { name: "notes", documents, keep: "no" });
  await expectError(refused, { status: 400, param: "keep" });
  expect(await store().list()).toEqual([]);
});

test("a fine-tuning job leaves none of its examples but the file", async () => {
  const file = await own.uploaded(examples.map((text) => JSON.stringify({ prompt: text, completion: "ba" })));
  const body = { model: "gpt2", training_file: file.id, suffix: "mail", keep: false };
  const job = await jsonOf<{ id: string }>(app().post("/v1/fine_tuning/jobs", body));
  expect(job).toMatchObject({ keep: false });
  await vi.waitFor(async () => expect(await shown("mail")).toMatchObject({ keep: false, adapts: true, examples: 3 }));
  expect(await sealed()).toEqual([{ hash: file.id, kind: "content" }]);
  const events = await (await app().request(`/v1/fine_tuning/jobs/${job.id}/events`)).text();
  expect(events).toContain("examples are not kept");
  await app().request(`/v1/files/${file.id}`, { method: "DELETE" });
  expect(await sealed()).toEqual([]);
});
