/** Documents of own adapters as memories. Stores and cells are real, the backend is scripted. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { delay, HttpResponse, http } from "msw";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { Ledger } from "../../edge/tenants/ledger.ts";
import { gunzip } from "../../edge/tenants/sealed-store.ts";
import type { MemoryProgress, TokenSources } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { memoryHash } from "../../shared/contracts/memory-hash.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { eventsOf, expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, backendUrl, framesStream, lacks, saying } from "./backend.ts";
import { manifestHash, publish } from "./model.ts";
import { network } from "./network.ts";
import { backendDeletes, patience, ready, unavailable, useTenant } from "./tenant.ts";

beforeAll(() => publish());

const own = useTenant("memories");
const { app, store, create, created, shown, remove, charged, setTime, alarm, rows } = own;
const backendRemembers = (memory?: () => MemoryProgress[] | Response) => own.backendMakes({ memory });
const adapterStatus = async (name = "notes") => (await app().request(`/v1/adapters/${name}`)).status;
/** Polls, because a job's alarm may run by itself. */
const untilShown = (expected: object) => vi.waitFor(async () => expect(await shown()).toMatchObject(expected));
const noting = ["aaab aaab aaab", { name: "second.md", text: "bbba" }];
/** A byte is a token here. */
const long = "ab".repeat(limits.memoryTokensAtOnce);

const refusal = (message: string): MemoryProgress[] => [
  { type: "error", kind: "invalid_request", message, retryAfterSeconds: null },
];

describe("an adapter of documents", () => {
  test("is ready when the backend has made its memory, and is charged by token once", async () => {
    const seen = backendRemembers(() => [{ type: "progress", tokens: 4, totalTokens: 8 }, ready]);
    const adapter = await created({ documents: noting });
    const documents = [{ name: "text-1", text: "aaab aaab aaab" }, noting[1]];
    const hash = await memoryHash(own.tenant, await manifestHash(), documents as { name: string; text: string }[]);
    const body = { version: 4, manifestHash: await manifestHash(), documents };
    expect(seen.puts).toEqual([{ path: `/v1/memories/${own.tenant}/${hash}`, body }]);
    expect(adapter).toMatchObject({
      ...{ id: "notes", model: "gpt2:notes", hash: null, examples: 0, adapts: true, outdated: false },
      memory: { status: "ready", error: null, hash, documents: 2, bytes: 18 },
      documents: [
        { name: "text-1", bytes: 14 },
        { name: "second.md", bytes: 4 },
      ],
    });
    expect(adapter.memory!.built_tokens).toBe(adapter.memory!.tokens);
    expect(await shown()).toEqual(adapter);
    await expect.poll(charged, patience).toEqual([1, adapter.memory!.tokens]);
  });

  test("is used by name, and by a prompt that names no adapter, until it is deleted; answers cite its passages under its name", async () => {
    backendRemembers();
    await create({ documents: noting });
    const { hash } = (await shown()).memory!;
    const passage = { memory: 0, document: "second.md", start: 1, end: 4, share: 0.25 };
    const sources: TokenSources = { share: 0.40004, passages: [passage] };
    const seen = backendAnswers(({ id }) => {
      const [a, b, done] = saying(id, "ok");
      const told = { ...done, memories: [{ hash: hash!, brake: 0.61239 }] };
      return [{ ...a, sources } as typeof a, b, told as typeof done];
    });
    const asked = { prompt: "aaab", max_tokens: 2 };
    for (const choice of [
      { model: "gpt2:notes", chameleon: { sources: true } },
      { chameleon: { adapter: "notes", sources: true } },
      { chameleon: { sources: true } },
    ]) {
      const { choices } = await jsonOf<CompletionResponse>(app().complete({ ...asked, ...choice }));
      const { memory, ...told } = passage;
      expect(choices[0].chameleon).toMatchObject({
        mode: "evidence",
        memories: [{ id: "notes", brake: 0.6124 }],
        sources: [{ token: "o", share: 0.4, passages: [{ adapter: "notes", ...told }] }],
      });
    }
    const { chameleon } = (await jsonOf<CompletionResponse>(app().complete({ ...asked, chameleon: {} }))).choices[0];
    expect([chameleon!.memories?.length, chameleon!.sources]).toEqual([1, undefined]);
    const memories = seen.batches.map(({ sequences }) => [sequences[0].memories, sequences[0].sources]);
    expect(memories).toEqual([...Array(3).fill([[{ hash }], true]), [[{ hash }], false]]);

    const streamed = app().complete({ ...asked, stream: true, chameleon: { sources: true } });
    const told = (await eventsOf<CompletionResponse>(streamed)).slice(0, -1).map(({ choices }) => choices[0].chameleon);
    expect(told.flatMap((block) => block?.sources ?? []).map(({ token }) => token)).toEqual(["o"]);
    expect(told.at(-1)).toMatchObject({ memories: [{ id: "notes" }] });
    await remove();
    await jsonOf(app().complete(asked));
    expect(seen.batches.at(-1)!.sequences[0].memories).toBeUndefined();
  });

  test("takes no part in answers that name another adapter, answers for other tenants, or answers for keys that may not see it", async () => {
    backendRemembers();
    await create({ documents: noting });
    const seen = backendAnswers(({ id }) => saying(id, "ok"));
    const asked = { prompt: "aaab", max_tokens: 2 };
    for (const choice of [{ model: "gpt2" }, { model: "gpt2:c0" }, { chameleon: { adapter: "nearest" } }]) {
      expect((await app().complete({ ...asked, ...choice })).status).toBe(200);
    }
    expect((await app().complete(asked, { headers: own.theirs })).status).toBe(200);
    expect(seen.batches.flatMap(({ sequences }) => sequences.flatMap(({ memories }) => memories ?? []))).toEqual([]);
    expect((await app().complete({ ...asked, model: "gpt2:notes" }, { headers: own.theirs })).status).toBe(404);
    expect((await app().request("/v1/adapters/notes", { headers: own.theirs })).status).toBe(404);
    const assigned = await app(own.keysWith({ scopes: ["embeddings"] })).post("/v1/assign", { input: "aaab" });
    expect(await assigned.text()).not.toContain("notes");
  });

  test("is put to a backend that finds its file damaged, and then lacks it, which then answers", async () => {
    const seen = backendRemembers(() => [{ type: "progress", tokens: 1, totalTokens: 8 }, ready]);
    await create({ documents: noting });
    let batches = 0;
    backendStreams(({ sequences: [{ id }] }) => {
      batches++;
      const error = { kind: "memory_not_found" as const, message: "no memory", retryAfterSeconds: null };
      if (batches === 1) return framesStream([{ type: "error", id, ...error }]);
      return batches === 2 ? lacks("memory_not_found") : framesStream(saying(id, "ok"));
    });
    await jsonOf(app().complete({ model: "gpt2:notes", prompt: "aa", max_tokens: 2 }));
    expect(seen.puts).toHaveLength(2);
    expect(seen.puts[1]).toEqual(seen.puts[0]);
  });

  test("that no backend can make leaves nothing behind, and costs nothing", async () => {
    const seen = backendRemembers(() => unavailable());
    await expectError(create({ documents: noting }), { status: 503, retryAfter: "2" });
    expect(await charged()).toEqual([0, 0]);
    expect(await adapterStatus()).toBe(404);
    await setTime(60_000);
    await alarm();
    expect([await rows("SELECT hash FROM documentParts"), seen.deletions.length > 0]).toEqual([[], true]);
  });

  test("is stored without its text, and erased with its key", async () => {
    backendRemembers();
    const secret = "aab".repeat(50);
    await create({ documents: [{ name: "bbbbbbbb.md", text: secret }] });
    const dump = async () => {
      const tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '_cf_*'";
      const values = (await rows<{ name: string }>(tables)).map(({ name }) => own.valuesIn(name));
      return (await Promise.all(values)).flat().join("\n");
    };
    const all = await dump();
    expect(all).toContain("notes");
    expect(all).not.toContain(secret.slice(0, 12));
    expect(all).not.toContain("bbbbbbbb");
    // Parts are encrypted, so they cannot be decompressed.
    const parts = await rows<{ bytes: ArrayBuffer }>("SELECT bytes FROM documentParts");
    expect(parts).toHaveLength(2);
    for (const { bytes } of parts) await expect(gunzip(new Uint8Array(bytes))).rejects.toThrow();
    const deletions = backendDeletes();
    await store().erase();
    expect(await dump()).not.toContain("notes");
    expect([await rows("SELECT id FROM documentKey"), await rows("SELECT hash FROM documentParts")]).toEqual([[], []]);
    expect(deletions).toEqual([`/v1/adapters/${own.tenant}`, `/v1/memories/${own.tenant}`]);
    await setTime(600_000);
    await created({ documents: noting });
  });
});

describe("a job", () => {
  test("is accepted with 202, shows its progress, and ends in a memory that requests use", async () => {
    const progress = '{"type":"progress","tokens":1000,"totalTokens":32768}\n';
    const lines = [progress];
    const body = () =>
      new ReadableStream<Uint8Array>({
        async pull(controller) {
          while (lines.length === 0) await delay(1);
          controller.enqueue(new TextEncoder().encode(lines.shift()));
        },
      });
    network.use(http.put(`${backendUrl}/v1/memories/*`, () => new HttpResponse(body())));
    const accepted = await create({ documents: [long] });
    expect([accepted.status, accepted.headers.get("location")]).toEqual([202, "/v1/adapters/notes"]);
    expect(await charged()).toEqual([0, 0]);
    const ended = alarm();
    await untilShown({ adapts: false, memory: { status: "building", built_tokens: 1000, hash: null } });
    const early = app().complete({ model: "gpt2:notes", prompt: "a" });
    await expectError(early, { status: 503, mentions: "1000 of 32768 tokens" });
    lines.push(`${JSON.stringify(ready)}\n`);
    await ended;
    await untilShown({ adapts: true, memory: { status: "ready", hash: expect.any(String) } });
    await expect.poll(charged, patience).toEqual([1, (await shown()).memory!.tokens]);
  });

  test("survives the loss of its object, of the backend and of the ledger, and is charged once", async () => {
    let isDown = true;
    const seen = backendRemembers(() => (isDown ? unavailable() : [ready]));
    expect((await create({ documents: [long] })).status).toBe(202);
    await alarm();
    await untilShown({ memory: { status: "queued", error: expect.stringContaining("starting") } });
    await evictDurableObject(store());
    isDown = false;
    let settles = 0;
    const original = Ledger.prototype.settleAll;
    vi.spyOn(Ledger.prototype, "settleAll").mockImplementation(async function (this: Ledger, ...given) {
      // The first settlement never reaches the ledger. The answer of the second is lost.
      if (settles++ > 0) await original.apply(this, given);
      throw new Error("the ledger is lost");
    });
    await alarm();
    await untilShown({ memory: { status: "ready", error: null } });
    expect(new Set(seen.puts.map(({ path }) => path)).size).toBe(1);
    await expect.poll(() => settles).toBeGreaterThanOrEqual(2);
    await evictDurableObject(store());
    vi.restoreAllMocks();
    await alarm();
    await expect.poll(charged, patience).toEqual([1, (await shown()).memory!.tokens]);
    expect(await rows("SELECT * FROM unsettledGroups")).toEqual([]);
  });

  test("that a backend refuses has failed, says why, keeps no documents, and costs nothing", async () => {
    backendRemembers(() => refusal("no such token"));
    await create({ documents: [long] });
    await alarm();
    await untilShown({ memory: { status: "failed", error: "no such token", hash: null }, documents: [] });
    const refused = app().complete({ model: "gpt2:notes", prompt: "a" });
    await expectError(refused, { status: 400, mentions: "no such token" });
    expect(await charged()).toEqual([0, 0]);
  });

  test("that has failed is charged for the parts that were fitted beside it, which stay", async () => {
    backendRemembers(() => refusal("no"));
    await jsonOf(create({ documents: [long], examples: ["aaab", "aaabb"] }), 202);
    await alarm();
    await untilShown({ memory: { status: "failed" } });
    await expect.poll(charged, patience).toEqual([1, (await shown()).tokens]);
  });

  test("that documents are added to is charged for all when it is ready", async () => {
    let isDown = true;
    backendRemembers(() => (isDown ? unavailable() : [ready]));
    await create({ documents: [long] });
    const added = await app().post("/v1/adapters/notes/documents", { documents: ["aabb"] });
    expect([added.status, await charged()]).toEqual([202, [0, 0]]);
    isDown = false;
    await alarm();
    await untilShown({ memory: { status: "ready", documents: 2 } });
    await expect.poll(charged, patience).toEqual([2, (await shown()).memory!.tokens]);
  });

  test("is tried again within a minute, however long no backend has taken it, and ends with DELETE, also at the backend", async () => {
    const seen = backendRemembers(() => unavailable());
    await create({ documents: [long] });
    for (let i = 0; i < 12; i++) await alarm();
    await untilShown({ memory: { status: "queued", error: expect.any(String) } });
    const dueMs = await runInDurableObject(store(), (_, { storage }) => storage.getAlarm());
    expect(dueMs! - Date.now()).toBeLessThanOrEqual(60_000);
    expect((await remove()).status).toBe(200);
    const puts = seen.puts.length;
    await setTime(60_000);
    await alarm();
    expect(seen.puts.length).toBe(puts);
    expect(seen.deletions.every((path) => path === seen.puts[0].path)).toBe(true);
    expect(seen.deletions.length).toBeGreaterThan(0);
    expect(await adapterStatus()).toBe(404);
    expect(await charged()).toEqual([0, 0]);
  });

  test("that is deleted after a backend has made a part of it is charged, like a client that leaves", async () => {
    const line = new TextEncoder().encode('{"type":"progress","tokens":9,"totalTokens":9}\n');
    const endless = () => new ReadableStream({ start: (controller) => controller.enqueue(line) });
    backendRemembers(() => new HttpResponse(endless()));
    await create({ documents: [long] });
    const ended = alarm();
    await untilShown({ memory: { status: "building", built_tokens: 9 } });
    const { tokens } = (await shown()).memory!;
    await remove();
    await ended;
    await expect.poll(charged, patience).toEqual([1, tokens]);
  });
});

describe("documents", () => {
  const add = (documents: unknown[]) => app().post("/v1/adapters/notes/documents", { documents });
  const drop = (document: string) =>
    app().request(`/v1/adapters/notes/documents/${encodeURIComponent(document)}`, { method: "DELETE" });

  test("are added and removed, each time as a new memory; the previous memory is deleted after a while", async () => {
    const seen = backendRemembers();
    await create({ documents: noting });
    const first = (await shown()).memory!.hash;
    expect((await add([{ name: "a/third.md", text: "abab" }])).status).toBe(200);
    const second = await shown();
    expect(second.documents!.map(({ name }) => name)).toEqual(["text-1", "second.md", "a/third.md"]);
    expect(second.memory!.hash).not.toBe(first);
    expect(seen.deletions).toEqual([]);
    expect((await drop("a/third.md")).status).toBe(200);
    expect((await shown()).memory!.hash).toBe(first);
    await expectError(drop("nothing"), { status: 404 });
    await setTime(700_000);
    await alarm();
    expect(seen.deletions).toEqual([`/v1/memories/${own.tenant}/${second.memory!.hash}`]);
    await drop("second.md");
    await expectError(drop("text-1"), { status: 400, mentions: "only document" });
  });

  test("that cannot be added leave the memory as it was", async () => {
    let isDown = false;
    backendRemembers(() => (isDown ? unavailable() : [ready]));
    await create({ documents: noting });
    const before = await shown();
    isDown = true;
    expect((await add(["abba"])).status).toBe(503);
    expect(await shown()).toEqual(before);
    await expectError(add([{ name: "second.md", text: "b" }]), { status: 400, mentions: '"second.md"' });
    expect(await shown()).toEqual(before);
  });

  const twice = [{ name: "x", text: "a" }, ...noting.slice(1), { name: "x", text: "b" }];
  test.each<[string, object, RegExp]>([
    ["none at all", {}, /documents and examples are absent/],
    ["an empty text", { documents: ["a", ""] }, /documents\[1\] has 0 characters/],
    ["too many", { documents: Array(10_001).fill("a") }, /documents has 10001 entries, the maximum is 10000/],
    ["two of one name", { documents: twice }, /named "x"/],
    ["a name too long", { documents: [{ name: "x".repeat(257), text: "a" }] }, /documents\[0\]/],
    ["too many tokens", { documents: ["ab".repeat(131_073)] }, /at least 262145 tokens, the maximum is 262144/],
  ])("are refused: %s, naming limit and value", async (_, rest, message) => {
    const seen = backendRemembers();
    await expectError(create(rest), { status: 400, mentions: message });
    expect(seen.puts).toEqual([]);
    expect(await adapterStatus()).toBe(404);
  });

  test("beyond the tenant's tokens are refused, and nothing is written", async () => {
    backendRemembers();
    const limited = app(own.keysWith({ memoryTokens: 6 }));
    const make = (name: string, text: string) => limited.post("/v1/adapters", { name, documents: [text] });
    expect((await make("one", "abcd")).status).toBe(201);
    const expected = { status: 403, code: "adapter_quota_exceeded" };
    const refused = make("two", "bcd");
    await expectError(refused, { ...expected, mentions: /would have \d+ tokens together, the maximum is 6/ });
    expect(await adapterStatus("two")).toBe(404);
  });
});

describe("an upload", () => {
  const send = (type: string, body: BodyInit, query = "?name=notes&document=a.md", more: Record<string, string> = {}) =>
    app().request(`/v1/adapters${query}`, { method: "POST", body, headers: { "content-type": type, ...more } });

  test.each<[string, string, string[]]>([
    ["text/markdown", "# aab", ["# aab"]],
    ["text/plain; charset=utf-8", "aab", ["aab"]],
    ["text/html", "<p>a&amp;b <b>ab</b></p><script>bad()</script><p>b</p>", ["a&b ab\n\nb"]],
    ["application/jsonl", '"aab"\n\n{"name": "x", "text": "bb"}\n', ["aab", "bb"]],
  ])("of %s is read", async (type, body, texts) => {
    const seen = backendRemembers();
    await jsonOf(send(type, body), 201);
    expect(seen.puts[0].body.documents.map(({ text }) => text)).toEqual(texts);
    const name = type === "application/jsonl" ? "a.md:1" : "a.md";
    expect(seen.puts[0].body.documents[0].name).toBe(name);
  });

  test("of a form brings its files under their names", async () => {
    const seen = backendRemembers();
    const form = new FormData();
    form.set("name", "notes");
    form.append("documents", new File(["aab"], "one.md", { type: "text/markdown" }));
    form.append("documents", new File(["<i>bb</i>"], "two.html"));
    const sent = new Request("http://x", { method: "POST", body: form });
    await jsonOf(send(sent.headers.get("content-type")!, await sent.arrayBuffer(), ""), 201);
    expect(seen.puts[0].body.documents).toEqual([
      { name: "one.md", text: "aab" },
      { name: "two.html", text: "bb" },
    ]);
  });

  test("that cannot be read is refused: PDF with the command that converts it, other types, bad bytes, and too much", async () => {
    const seen = backendRemembers();
    await expectError(send("application/pdf", "%PDF"), { status: 415, mentions: "pdftotext" });
    await expectError(send("image/png", "x"), { status: 415 });
    const bad = Uint8Array.of(97, 98, 0xe2, 0x82, 97);
    await expectError(send("text/plain", bad), { status: 400, message: "The body is not valid UTF-8 at byte 2." });
    await expectError(send("application/jsonl", '"a"\n{'), { status: 400, mentions: "line 2" });
    const size = String(limits.documentBodyBytes + 1);
    const large = send("text/plain", "a", undefined, { "content-length": size });
    await expectError(large, { status: 413, mentions: `${size} bytes, the maximum is ${limits.documentBodyBytes}` });
    expect(seen.puts).toEqual([]);
  });
});

test("fitted parts join the mixture of a prompt that is near, and the base keeps its floor", async () => {
  const gain = { nats: 0.2, ci95: [0.1, 0.3] as [number, number], tokens: 9 };
  const examples = { examples: [], validation: null };
  const content = { manifestHash: await manifestHash(), centroid: [1, 0, 0, 0], tokens: 9, examples };
  const made = { kept: true, file: "", copy: { address: backendUrl, process: null } };
  const [hash, other] = ["4".repeat(64), "5".repeat(64)];
  await store().add({ name: "mail" }, content, { ...made, hash, gain });
  await store().add({ name: "base-alone" }, content, { ...made, hash: other, gain: null });
  const seen = backendAnswers(({ id }) => saying(id, "ok"));
  await jsonOf(app().complete({ prompt: "aaaaaa", max_tokens: 2 }));
  const [{ adapterHash, sequences }] = seen.batches;
  const { adapters, base, evidence } = sequences[0].mixture!;
  expect([adapterHash, adapters[0]]).toEqual([hash, { adapterHash: hash, weight: expect.any(Number) }]);
  expect(adapters.slice(1).every((one) => "centroidId" in one)).toBe(true);
  expect(base + adapters.reduce((sum, { weight }) => sum + weight, 0)).toBeCloseTo(1);
  expect(evidence!.floor).toBeGreaterThan(0);
  expect(sequences[0].memories).toBeUndefined();
});

test("a memory may have its maximum number of documents, and no more", async () => {
  backendRemembers();
  await created({ documents: Array(limits.documents).fill("b") });
  expect((await shown()).memory!.documents).toBe(limits.documents);
  const more = app().post("/v1/adapters/notes/documents", { documents: ["a"] });
  await expectError(more, { status: 400, mentions: "10001 documents, the maximum is 10000" });
});
