/** What `keep: false` deletes once an adapter is made, and what that costs later: real stores and a scripted backend. */
import { runInDurableObject } from "cloudflare:test";
import { HttpResponse, http } from "msw";
import { beforeEach, expect, test, vi } from "vitest";
import { type Artifacts, heldSet } from "../../edge/artifacts/artifacts.ts";
import { unavailable } from "../../edge/dispatch/call-failure.ts";
import { AdapterRecords } from "../../edge/tenants/adapter-records.ts";
import type { TenantParts } from "../../edge/tenants/backend-copies.ts";
import { gzip, jsonBytes, SealedStore } from "../../edge/tenants/sealed-store.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";
import { type Changed, TenantMemories } from "../../edge/tenants/tenant-memories.ts";
import type { Adapter } from "../../shared/contracts/responses.ts";
import {
  backendAnswers,
  backendUrl,
  edgeArtifacts,
  edgeArtifactsWith,
  errorOf,
  network,
  publish,
  saying,
  useNetwork,
} from "./harness.ts";
import { useTenant } from "./tenant.ts";

useNetwork();

let served: Artifacts;
const own = useTenant("keep", () => ({ artifacts: async () => served }));
const { app, store, shown } = own;
const documents = ["aaab aaab aaab", { name: "second.md", text: "bbba" }];
const examples = ["aaaa", "bbb", "aab"];

beforeEach(async () => {
  await serve(await edgeArtifacts());
  own.backendMakes();
});

async function serve(set: Artifacts): Promise<void> {
  served = set;
  await publish(set.manifestHash);
}
/** Publishes other artifacts and runs the alarm that makes adapters again for them. */
async function serveOthers(): Promise<void> {
  const after = await edgeArtifactsWith(true);
  expect(heldSet(after.manifestHash)).toBe(after);
  await serve(after);
  await own.alarm();
}
const create = async (name: string, rest: object) => {
  const made = await own.create(rest, name);
  expect(made.status, await made.clone().text()).toBe(201);
  return (await made.json()) as Adapter;
};
const sealed = () =>
  own.rows<{ hash: string; kind: string }>("SELECT hash, kind FROM documentParts WHERE kind <> 'file'");
const addTo = (name: string) => app().post(`/v1/adapters/${name}/documents`, { documents: ["more"] });

test("the texts of an adapter are deleted once it is made, and it says what is not possible any more", async () => {
  const kept = await create("kept", { documents, examples });
  expect(kept).toMatchObject({ keep: true, message: null, documents: [{}, {}] });
  const rows = await sealed();
  expect(rows.map(({ kind }) => kind).sort()).toEqual(["examples", "records", "texts"]);
  const other = await create("other", { documents: [...documents, "aa"], examples, keep: false });
  expect(other).toMatchObject({ keep: false, examples: 3, memory: { status: "ready", documents: 3 } });
  expect(other.message).toContain("it is not made again for other artifacts");
  expect(other.documents).toBeUndefined();
  expect(await sealed(), "nothing of the other one").toEqual(rows);

  const refused = { status: 400, param: "documents", message: expect.stringContaining("were not kept (keep: false)") };
  expect(await errorOf(await addTo("other"))).toMatchObject(refused);
  const path = "/v1/adapters/other/documents/second.md";
  expect(await errorOf(await app().request(path, { method: "DELETE" }))).toMatchObject(refused);
});

test("after a publication such an adapter answers while its own artifacts are loaded, and is gone afterwards", async () => {
  await create("notes", { documents, keep: false });
  await create("labels", { examples, keep: false });
  backendAnswers(({ id }) => saying(id, "ok"));
  await serveOthers();
  for (const name of ["notes", "labels"]) {
    const refit = { status: "failed", error: expect.stringContaining("not kept") };
    await vi.waitFor(async () => expect(await shown(name)).toMatchObject({ outdated: true, refit }));
    const body = { model: `gpt2:${name}`, prompt: "a", max_tokens: 2 };
    expect((await app().complete(body)).status).toBe(200);
    const { complete } = app({ artifactsOf: async () => null });
    expect(await errorOf(await complete(body))).toMatchObject({ code: "adapter_outdated" });
  }
});

test("documents that another adapter keeps stay until that is deleted", async () => {
  await create("first", { documents, keep: false });
  expect(await sealed()).toEqual([]);
  const { memory } = await create("second", { documents });
  expect(memory!.hash).toBe((await shown("first")).memory!.hash);
  expect(await sealed()).toHaveLength(2);
  await create("third", { documents, keep: false });
  expect(await sealed()).toHaveLength(2);
  await own.remove("second");
  expect(await sealed()).toEqual([]);
  expect(await shown("first")).toMatchObject({ adapts: true });
});

test("documents added to an adapter whose examples were not kept are not kept, either", async () => {
  await create("labels", { examples, keep: false });
  expect((await addTo("labels")).status).toBe(200);
  expect(await sealed()).toEqual([]);
  expect(await shown("labels")).toMatchObject({ keep: false, memory: { documents: 1 } });
});

test("a backend that lacks such a memory ends the answer with an error that says why", async () => {
  const { memory } = await create("notes", { documents, keep: false });
  network.use(
    http.post(`${backendUrl}/v1/batches`, () =>
      HttpResponse.json({ error: { message: memory!.hash, code: "memory_not_found" } }, { status: 404 }),
    ),
  );
  const answered = await app().complete({ model: "gpt2:notes", prompt: "aab" });
  expect(await errorOf(answered)).toMatchObject({
    code: "memory_deleted",
    message: expect.stringContaining("its documents were not kept"),
  });
});

test("a memory whose documents are not kept is given to every backend, though one fails; any other to one backend", async () => {
  const down = () => Promise.reject(unavailable("unreachable", "down", undefined));
  const asked = await runInDurableObject(store(), async (_: TenantAdapterStore, { storage }) => {
    const seen: Record<string, string[]> = { kept: [], unkept: [] };
    const random = (count: number) => crypto.getRandomValues(new Uint8Array(count));
    const client = (name: string, put: () => Promise<void>) => ({
      putMemory: (_tenant: string, hash: string) => {
        seen[hash === hashes.kept ? "kept" : "unkept"].push(name);
        return put();
      },
    });
    const clients = [client("a", async () => {}), client("b", down), client("c", async () => {})];
    const memories = new TenantMemories(
      {
        ...{ tenant: own.tenant, storage, now: Date.now, sealed: new SealedStore(storage, random) },
        records: new AdapterRecords(storage.sql),
        clients: () => new Map(clients.map((one, i) => [String(i), one])),
        copies: { note() {}, keep() {}, deleteUnused: async () => {} },
        encoder: () => ({ documents: async () => [] }),
      } as unknown as TenantParts,
      () => undefined,
    );
    const hashes: Record<string, string> = {};
    for (const [name, keep] of [
      ["kept", true],
      ["unkept", false],
    ] as const) {
      const document = { name: null, text: name, tokens: 1, embedding: btoa("\0\0\0\0") };
      const added = await gzip(jsonBytes([document]));
      hashes[name] = (
        (await memories.change(name, { manifestHash: served.manifestHash, added, keep }, () => null)) as Changed
      ).hash;
      expect(await memories.build(name)).toEqual({ status: "ready", error: null });
    }
    return seen;
  });
  expect(asked).toEqual({ kept: ["a"], unkept: ["a", "b", "c"] });
});

test.each<[string, () => Promise<Response>]>([
  [
    "a file as the body",
    () =>
      app().request("/v1/adapters?name=notes&keep=false", {
        ...{ method: "POST", headers: { "content-type": "text/plain" }, body: "aaab" },
      }),
  ],
  [
    "a form",
    () => {
      const form = new FormData();
      for (const [name, value] of [
        ["name", "notes"],
        ["documents", "aaab"],
        ["keep", "false"],
      ])
        form.append(name, value);
      return app().request("/v1/adapters", { method: "POST", body: form });
    },
  ],
])("%s can ask for keep: false, too", async (_, post) => {
  const made = await post();
  expect([made.status, await made.json()]).toMatchObject([201, { keep: false }]);
  expect(await sealed()).toEqual([]);
});

test("anything but a boolean is refused, and nothing is made", async () => {
  const refused = await app().post("/v1/adapters", { name: "notes", documents, keep: "no" });
  expect(await errorOf(refused)).toMatchObject({ status: 400, param: "keep" });
  expect(await store().list()).toEqual([]);
});

test("a fine-tuning job leaves none of its examples but the file", async () => {
  const file = await own.uploaded(examples.map((text) => JSON.stringify({ prompt: text, completion: "ba" })));
  const body = { model: "gpt2", training_file: file.id, suffix: "mail", keep: false };
  const job = await (await app().post("/v1/fine_tuning/jobs", body)).json<{ id: string }>();
  expect(job).toMatchObject({ keep: false });
  await vi.waitFor(async () => expect(await shown("mail")).toMatchObject({ keep: false, adapts: true, examples: 3 }));
  expect(await sealed()).toEqual([{ hash: file.id, kind: "content" }]);
  const events = await (await app().request(`/v1/fine_tuning/jobs/${job.id}/events`)).text();
  expect(events).toContain("examples are not kept");
  await app().request(`/v1/files/${file.id}`, { method: "DELETE" });
  expect(await sealed()).toEqual([]);
});
