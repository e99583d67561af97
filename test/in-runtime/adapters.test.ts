/** A tenant's own adapters through the API: real stores and cells, and a scripted backend. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { HttpResponse, http } from "msw";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { AdapterRecords } from "../../edge/tenants/adapter-records.ts";
import { ledgerOf } from "../../edge/tenants/ledger.ts";
import type { AdapterAnswer } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { AdapterList, UsageReport } from "../../shared/contracts/responses.ts";
import type { Scope } from "../../shared/contracts/tenants.ts";
import { errorOf, expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, backendUrl, framesStream, lacks, saying } from "./backend.ts";
import { artifactsWith, manifestHash, publish } from "./model.ts";
import { network } from "./network.ts";
import { configure, settle } from "./objects.ts";
import { adapterFile, backendDeletes, gain, patience, unavailable, useTenant } from "./tenant.ts";

beforeAll(() => publish());

const hash = "4".repeat(64);
const examplesGone = { examples: [], validation: null };
const content = { manifestHash: "6".repeat(64), centroid: [1, 0, 0, 0], tokens: 8, examples: examplesGone };
const made = { hash, kept: true, gain, file: "" };
const own = useTenant("adapters");
const { app, store, json, create, remove, alarm, setTime } = own;
const removed = async (name?: string) => (await remove(name)).json();
const backendMakes = (adapter: Partial<AdapterAnswer> = {}) => own.backendMakes({ adapter: { hash, ...adapter } });
const examples = ["aaaa", "bbb", "aab"];
const make = (rest: object = {}, name = "my-mail") => create({ examples, ...rest }, name);

const question = { role: "user", content: "aab" };
const chat = (role: string) => ({ messages: [question, { role, content: "ba" }] });
describe("POST /v1/adapters", () => {
  test("learns only the answer of a pair or a chat, with the end of text, after the prompt as it is served", async () => {
    const { fits } = backendMakes();
    const chatTemplate = "{% for m in messages %}{{ m.content }}{% endfor %}";
    const { post, complete } = app({ artifacts: artifactsWith(false, { chatTemplate }) });
    const examples = ["abab", { prompt: "aab", completion: "ba" }, chat("assistant")];
    await jsonOf(post("/v1/adapters", { name: "my-mail", examples }), 201);
    const seen = backendAnswers(({ id }) => saying(id, "ok"));
    await complete({ prompt: "aab" });
    await post("/v1/chat/completions", { messages: [question] });
    const [text, pair, conversation] = fits[0].examples;
    expect(text.from).toBe(1);
    const prompts = seen.batches.map(({ sequences }) => sequences[0].promptIds);
    for (const [i, { ids, from }] of [pair, conversation].entries()) {
      expect(ids.slice(0, from)).toEqual(prompts[i]);
      expect(ids.slice(from, -1)).toEqual(text.ids.slice(1, 3));
    }
    expect(pair.ids.at(-1)).toBe(conversation.ids.at(-1));
  });

  test("makes an adapter of texts, reports its gain, and serves it as a model beside the others", async () => {
    const { fits } = backendMakes();
    const { request, complete } = app();
    const made = await make();
    expect(made.status, await made.clone().text()).toBe(201);
    expect(made.headers.get("location")).toBe("/v1/adapters/my-mail");
    expect(await made.json()).toMatchObject({
      ...{ id: "my-mail", model: "gpt2:my-mail", hash, gain, adapts: true, message: null },
      ...{ centroid: { nearest: "c0" }, examples: 3, tokens: 10 },
    });
    // The examples are texts of a's and of b's, so their centroid lies between the two axes.
    const [{ centroid }] = await store().list();
    const [x, y] = centroid;
    expect(Math.hypot(...centroid)).toBeCloseTo(1);
    expect([x > 0.6, y > 0.5]).toEqual([true, true]);
    expect(fits[0]).toMatchObject({ manifestHash: await manifestHash(), tenant: expect.stringMatching(/^adapters-/) });

    const seen = backendAnswers(({ id }) => saying(id, "ok"));
    const chameleon = { centroid: "my-mail", mode: "adapted", held_out_gain: gain };
    for (const choice of [{ model: "gpt2:my-mail", chameleon: {} }, { chameleon: { adapter: "my-mail" } }]) {
      const answered = await jsonOf(complete({ prompt: "aaab", max_tokens: 2, ...choice }));
      expect(answered).toMatchObject({ choices: [{ text: "ok", chameleon }] });
    }
    const routes = seen.batches.map(({ centroidId, adapterHash }) => [centroidId, adapterHash]);
    expect(routes).toEqual(Array(2).fill([null, hash]));

    const names = async (headers: Record<string, string>) => (await request("/v1/models", { headers })).text();
    expect(await names(own.mine)).toContain('"gpt2:my-mail"');
    expect(await names(own.theirs)).not.toContain("my-mail");
    expect((await request("/v1/models/gpt2:my-mail")).status).toBe(200);
    expect((await request("/v1/models/gpt2:my-mail", { headers: own.theirs })).status).toBe(404);
  });

  test("is an unknown model to keys that may neither make nor use it", async () => {
    backendMakes();
    expect((await make()).status).toBe(201);
    const model = "gpt2:my-mail";
    const answersTo = async (scopes: Scope[]) => {
      const { request, post } = app(own.keysWith({ scopes }));
      const statusOf = async (response: Response) => (response.ok ? response.status : errorOf(response));
      const posted = async (path: string) => statusOf(await post(path, { model, input: "aaab" }));
      return {
        list: await (await request("/v1/models")).text(),
        one: await statusOf(await request(`/v1/models/${model}`)),
        assign: await posted("/v1/assign"),
        embeddings: await posted("/v1/embeddings"),
        centroids: await (await request("/v1/centroids")).text(),
      };
    };
    const unknown = expect.objectContaining({ status: 404, code: "model_not_found" });
    const forbidden = expect.objectContaining({ status: 403 });
    const hidden = expect.not.stringContaining("my-mail");
    for (const scopes of [["usage"], ["embeddings"], [], ["usage", "embeddings"]] as Scope[][]) {
      const embeddings = scopes.includes("embeddings") ? unknown : forbidden;
      const expected = { list: hidden, one: unknown, assign: unknown, embeddings, centroids: hidden };
      expect([scopes, await answersTo(scopes)]).toEqual([scopes, expected]);
    }
    for (const scopes of [["adapters"], ["completions"]] as Scope[][]) {
      const expected = { list: expect.stringContaining(model), one: 200, assign: 200 };
      expect([scopes, await answersTo(scopes)]).toMatchObject([scopes, expected]);
    }
  });

  test.each<[string, object]>([
    ["served alone", { model: "gpt2:my-mail" }],
    ["listed among others", { chameleon: { adapter: [{ id: "base" }, { id: "c0" }, { id: "my-mail" }] } }],
  ])("brings its bytes to a backend that lacks it: %s", async (_, wish) => {
    backendMakes();
    await make();
    const brought: { path: string; bytes: number[] }[] = [];
    const seen = backendStreams(({ sequences: [{ id }] }) =>
      brought.length === 0 ? lacks("adapter_not_found") : framesStream(saying(id, "ok")),
    );
    network.use(
      http.put(`${backendUrl}/v1/adapters/*`, async ({ request }) => {
        const { pathname: path } = new URL(request.url);
        brought.push({ path, bytes: [...new Uint8Array(await request.arrayBuffer())] });
        return new HttpResponse(null, { status: 204 });
      }),
    );
    await jsonOf(app().complete({ ...wish, prompt: "aa", max_tokens: 2 }));
    // A micro-batch never mixes tenants.
    const routes = seen.batches.map(({ centroidId, adapterHash }) => [centroidId, adapterHash]);
    expect(routes).toEqual(Array(2).fill([null, hash]));
    expect(brought).toEqual([{ path: `/v1/adapters/${own.tenant}/${hash}`, bytes: adapterFile }]);
  });

  test.each<[string, object, RegExp]>([
    ["a centroid's name", { name: "c1" }, /name is "c1"; that name is a centroid's/],
    ["a name of a mode", { name: "auto" }, /reserved/],
    ["a name of other characters", { name: "My Mail" }, /name is "My Mail"; it must be/],
    ["one example", { examples: ["aaa"] }, /examples has 1 entries, the minimum is 2/],
    ["too many", { examples: Array(1025).fill("aaa") }, /has 1025 entries, the maximum is 1024/],
    ["an example of one token", { examples: ["aaa", "a"] }, /examples\[1\] has 1 tokens, the minimum is 2/],
    ["a pair without an answer", { examples: ["aaa", { prompt: "a" }] }, /examples\[1\] must be a string, \{prompt/],
    ["an empty answer", { examples: ["aaa", { prompt: "a", completion: "" }] }, /examples\[1\].completion is empty/],
    ["a chat that ends in a question", { examples: ["aaa", chat("user")] }, /examples\[1\].messages must be the assi/],
    ["examples that are none", { examples: "aaa" }, /examples is a string; it must be a list/],
  ])("refuses %s, naming limit and value", async (_, change, message) => {
    await expectError(make(change), { status: 400, mentions: message });
  });

  test("refuses a name that is taken, and more than a tenant may have", async () => {
    backendMakes();
    expect((await make({}, "a0")).status).toBe(201);
    await expectError(make({}, "a0"), { status: 400, param: "name" });
    await runInDurableObject(store(), (_, { storage: { sql } }) => {
      const records = new AdapterRecords(sql);
      const record = records.find("a0")!;
      for (let i = 1; i < limits.adaptersPerTenant; i++) records.put({ ...record, name: `a${i}` });
    });
    const expected = { status: 403, code: "adapter_quota_exceeded" };
    await expectError(make({}, "more"), { ...expected, mentions: `maximum is ${limits.adaptersPerTenant}` });
  });

  test("is charged for what has begun where its caller leaves", async () => {
    const { fits } = own.backendMakes({
      fit(_made, _request, signal) {
        // When the caller leaves, the response body fails, as a broken connection would make it.
        const start = (answer: ReadableStreamDefaultController) =>
          signal.addEventListener("abort", () => answer.error(signal.reason));
        return new HttpResponse(new ReadableStream({ start }), { status: 201 });
      },
    });
    const leaving = new AbortController();
    const asked = app().post("/v1/adapters", { name: "my-mail", examples }, { signal: leaving.signal });
    void Promise.resolve(asked).catch(() => undefined);
    await vi.waitFor(() => expect(fits).toHaveLength(1));
    leaving.abort();
    const tokens = fits[0].examples.reduce((sum, { ids }) => sum + ids.length, 0);
    await expect.poll(own.charged, patience).toEqual([1, tokens]);
  });

  test("a backend that cannot make an adapter gives its reason, and nothing is left behind", async () => {
    own.backendMakes({ fit: unavailable });
    expect((await make()).status).toBe(503);
    expect(await json("/v1/adapters")).toEqual({ object: "list", data: [], deleting: [] });
  });
});

describe("an adapter", () => {
  test("is its tenant's alone: another finds, uses and deletes nothing, and may have one of that name", async () => {
    backendMakes();
    const { post, request, complete } = app();
    await make();
    const theirs = { headers: own.theirs };
    for (const method of ["GET", "DELETE"]) {
      const missed = request("/v1/adapters/my-mail", { method, ...theirs });
      await expectError(missed, { status: 404, code: "adapter_not_found" });
    }
    const [named, typo] = ["my-mail", "my-mial"].map((name) => ({ model: `gpt2:${name}`, prompt: "a" }));
    await expectError(complete(named, theirs), { status: 404, code: "model_not_found" });
    await expectError(complete(typo), { mentions: "your own: gpt2:my-mail." });
    const listed = { model: "gpt2", prompt: "a", chameleon: { adapter: "my-mial" } };
    await expectError(complete(listed), { mentions: "your own: my-mail." });
    const ofNoModel = { model: "no-such-model", prompt: "a", chameleon: { adapter: "my-mail" } };
    await expectError(complete(ofNoModel), { status: 404, code: "model_not_found", mentions: "no-such-model" });
    expect((await errorOf(complete(typo, theirs))).message).not.toContain("my-mail");
    expect((await post("/v1/adapters", { name: "my-mail", examples }, theirs)).status).toBe(201);
    expect((await request("/v1/adapters/my-mail")).status).toBe(200);
  });

  test("is gone once deleted, at the backends too; equal bytes under another name stay", async () => {
    const { deletions } = backendMakes();
    for (const name of ["one", "two"]) await make({}, name);
    expect(await removed("one")).toEqual({ id: "one", object: "adapter", deleted: true, pending_backends: 0 });
    expect(deletions).toEqual([]);
    expect((await remove("two")).status).toBe(200);
    expect(deletions).toEqual([`/v1/adapters/${own.tenant}/${hash}`]);
    expect((await remove("two")).status).toBe(404);
    expect((await app().complete({ model: "gpt2:two", prompt: "a" })).status).toBe(404);
  });

  test("is deleted again at a backend that does not answer until it confirms, and is listed as deleting until then", async () => {
    const making = { adapter: { hash }, deletion: 503 };
    const { deletions } = own.backendMakes(making);
    await make({}, "gone");
    expect(await removed("gone")).toMatchObject({ deleted: true, pending_backends: 1 });
    const deleting = async () => {
      const list = await json<AdapterList>("/v1/adapters");
      return list.deleting.map(({ id, pending_backends }) => [id, pending_backends]);
    };
    expect(await deleting()).toEqual([["gone", 1]]);
    await evictDurableObject(store());
    expect(await alarm()).toBe(true);
    expect([await deleting(), deletions.length]).toEqual([[["gone", 1]], 2]);
    making.deletion = 204;
    expect(await alarm()).toBe(true);
    expect([await deleting(), deletions.length]).toEqual([[], 3]);
    expect(await alarm()).toBe(false);
    // An adapter that was made again under the same name before the retry is not deleted.
    making.deletion = 503;
    await make({}, "again");
    await remove("again");
    await make({}, "again");
    await alarm();
    expect([await deleting(), deletions.length]).toEqual([[], 4]);
  });

  test("that an unconfigured backend may have stays pending until that backend is configured, and is deleted then", async () => {
    backendMakes();
    network.use(http.delete("http://*/v1/adapters/*", () => new HttpResponse(null, { status: 204 })));
    await make({}, "left");
    const removedUrl = "http://removed.test";
    await store().file(hash, { address: removedUrl, process: null });
    await setTime(60_000);
    expect(await removed("left")).toMatchObject({ pending_backends: 1 });
    expect(await alarm()).toBe(true);
    await configure(store(), { BACKEND_URLS: removedUrl });
    expect(await alarm()).toBe(true);
    expect(await store().deletions()).toEqual([]);
    expect(await alarm()).toBe(false);
  });

  test("that was handed to a backend a moment ago is deleted there again, as the upload may arrive after the deletion", async () => {
    const { deletions } = backendMakes();
    await make();
    expect(await store().file(hash, { address: backendUrl, process: null })).not.toBeNull();
    expect([await removed("my-mail"), deletions.length]).toMatchObject([{ pending_backends: 1 }, 1]);
    await setTime(60_000);
    expect(await alarm()).toBe(true);
    expect([await store().deletions(), deletions.length]).toEqual([[], 2]);
  });

  test("that could not be kept is deleted at the backend that has made it", async () => {
    const { fits, deletions } = own.backendMakes();
    const texts = ["aaaa", "bbbbb"];
    const both = await Promise.all(texts.map((text) => make({ examples: [text, text] })));
    expect(both.map(({ status }) => status).sort()).toEqual([201, 400]);
    const made = await json<AdapterList>("/v1/adapters");
    expect([fits.length, deletions]).toEqual([2, [expect.not.stringContaining(made.data[0].hash!)]]);
  });

  test("is erased with its tenant at every backend, at once or when the backend answers, and no usage is left", async () => {
    const { tenant } = own;
    const { settled, complete, post, request } = app();
    own.backendMakes({ adapter: { hash }, deletion: 503 });
    await post("/v1/adapters", { name: "my-mail", examples });
    await settled();
    const usage = async () => (await json<UsageReport>("/v1/usage")).total.requests;
    await expect.poll(usage).toBe(1);
    const erase = () => jsonOf(request(`/admin/v1/tenants/${tenant}`, { method: "DELETE" }));
    expect(await erase()).toEqual({
      ...{ object: "tenant.erased", tenant, keys: 0, adapters: 1, left: expect.any(Array) },
      backends: { confirmed: [], pending: [backendUrl], partly_asked: [] },
    });
    expect(await json("/v1/adapters")).toEqual({ object: "list", data: [], deleting: [] });
    expect(await usage()).toBe(0);
    // A request that ends after the erasure leaves no trace, even if it began before.
    const used = { model: "gpt2", centroid: null, requests: 1, promptTokens: 3, completionTokens: 4 };
    await settle(ledgerOf(env.LEDGERS, tenant), "late", [used]);
    expect(await usage()).toBe(0);
    // A request that begins after the erasure counts.
    backendAnswers(({ id }) => saying(id, "b"));
    expect((await complete({ prompt: "a" })).status).toBe(200);
    await settled();
    await expect.poll(usage).toBe(1);
    const deletions = backendDeletes();
    expect(await alarm()).toBe(true);
    expect(deletions).toEqual([`/v1/adapters/${tenant}`, `/v1/memories/${tenant}`]);
    expect(await erase()).toMatchObject({ adapters: 0, backends: { confirmed: [backendUrl], pending: [] } });
  });

  test("is erased at the known processes behind an address, and stays unconfirmed for others there", async () => {
    network.use(http.delete("http://*/v1/*/*", () => new HttpResponse(null, { status: 204 })));
    const [known, unknown] = ["http://{name}.known.test", "http://{name}.unknown.test"];
    await configure(store(), { BACKEND_URLS: `${backendUrl},${known},${unknown}` });
    await store().add({ name: "one" }, content, { ...made, copy: { address: known, process: "pod-0" } });
    expect(await store().erase()).toEqual({
      adapters: 1,
      confirmed: [backendUrl, `${known} (pod-0)`, `${unknown} (any one process)`],
      ...{ pending: [], partlyAsked: [known, unknown] },
    });
  });

  test("for artifacts that are gone is refused by name, permanently if it cannot be made again", async () => {
    await store().add({ name: "old" }, content, { ...made, copy: { address: backendUrl, process: null } });
    const ask = async () => errorOf(app().complete({ model: "gpt2:old", prompt: "a" }));
    expect(await ask()).toMatchObject({ status: 503, code: "backend_unavailable" });
    await alarm();
    await expect.poll(ask).toMatchObject({ status: 400, code: "adapter_outdated" });
    const refit = { status: "failed", error: "Its examples were not kept." };
    expect(await json("/v1/adapters/old")).toMatchObject({ outdated: true, refit });
  });
});
