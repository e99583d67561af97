/** Idempotency-Key: a repeated request gets the same answer and one charge; a broken stream resumes after its last event. */
import { beforeEach, describe, expect, test, vi } from "vitest";
import type { FileObject, Job } from "../../shared/contracts/fine-tuning.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { plans } from "../../shared/contracts/tenants.ts";
import { errorOf, expectError, jsonOf } from "./answers.ts";
import { backendAnswers, lateBackend, seededFrames } from "./backend.ts";
import { ledgerOfTenant, settle } from "./objects.ts";
import { useTenant } from "./tenant.ts";

let ledgers = 0;
let seeds = 0;
const own = useTenant("keyed", () => ({
  randomSeed: () => seeds++,
  newId: () => crypto.randomUUID().replaceAll("-", ""),
}));
const app = (isLimited = true) => own.app(own.keysWith({ limits: isLimited ? plans.standard : plans.unlimited }));
const newLedger = () => ledgerOfTenant(`keys-${ledgers++}`);

beforeEach(() => void backendAnswers(seededFrames));

async function used(): Promise<[number, number, number]> {
  const rows = await ledgerOfTenant(own.tenant).usage();
  const sum = (of: (row: (typeof rows)[number]) => number) => rows.reduce((total, row) => total + of(row), 0);
  return [sum((row) => row.requests), sum((row) => row.promptTokens), sum((row) => row.completionTokens)];
}

const month = async () => (await ledgerOfTenant(own.tenant).stateOf()).months[0]?.[1] ?? 0;

const body = { prompt: "aaaa", max_tokens: 6, temperature: 1 };
/** The parts of an answer that a repetition repeats: all but the timings. */
const essence = ({ id, created, choices, usage }: CompletionResponse) => ({
  ...{ id, created, usage },
  texts: choices.map(({ text }) => text),
});

describe.each([
  ["with limits", true],
  ["without limits", false],
])("a request of a tenant %s that is repeated under its Idempotency-Key", (_, isLimited) => {
  const ask = async (key: string, content: object = body, headers = {}) =>
    app(isLimited).complete(content, { headers: { ...headers, "idempotency-key": key } });
  const answered = (...asked: Parameters<typeof ask>) => jsonOf<CompletionResponse>(ask(...asked));

  test("has the same id, time, tokens and usage, at once and later, and is charged once", async () => {
    const answers = await Promise.all([answered("order-1"), answered("order-1"), answered("order-1")]);
    answers.push(await answered("order-1"));
    expect(new Set(answers.map((one) => JSON.stringify(essence(one)))).size).toBe(1);
    const other = await answered("order-2");
    expect(other.id).not.toBe(answers[0].id);
    expect(other.choices[0].text).not.toBe(answers[0].choices[0].text);
    const { prompt_tokens, completion_tokens } = answers[0].usage!;
    const twice = [2, 2 * prompt_tokens, 2 * completion_tokens];
    await vi.waitFor(async () => expect(await used()).toEqual(twice));
    if (isLimited) expect(await month()).toBe(2 * (prompt_tokens + completion_tokens));
  });

  test("is refused with 409 if its body or path differs, and the same key of another tenant is another key", async () => {
    const first = await answered("same");
    const conflict = { status: 409, code: "idempotency_conflict", param: "Idempotency-Key" };
    await expectError(ask("same", { ...body, max_tokens: 5 }), conflict);
    const chat = { messages: [{ role: "user", content: "aaaa" }], max_tokens: 6 };
    const init = { headers: { "idempotency-key": "same" } };
    expect((await app(isLimited).post("/v1/chat/completions", chat, init)).status).toBe(409);
    expect((await answered("same", body, own.theirs)).id).not.toBe(first.id);
    // An invalid request leaves its key unused.
    expect((await ask("later", { ...body, max_tokens: -1 })).status).toBe(400);
    expect((await ask("later")).status).toBe(200);
  });

  test("is charged for the rest alone if its client has left before", async () => {
    const { bodies, seen } = lateBackend(1);
    const stream = { ...body, stream: true };
    const left = new AbortController();
    const headers = { "idempotency-key": "cut" };
    const asked = app(isLimited).complete(stream, { headers, signal: left.signal });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
    const [sequence] = seen.batches[0].sequences;
    bodies[0].send(...seededFrames(sequence).slice(0, 2));
    const reader = (await asked).body!.getReader();
    await reader.read();
    left.abort();
    await reader.cancel().catch(() => undefined);
    await vi.waitFor(async () => expect((await used())[0]).toBe(1));
    expect((await used())[2]).toBeLessThan(body.max_tokens);
    backendAnswers(seededFrames);
    // The key was used with stream: true, so this is another request.
    await expectError(ask("cut"), { status: 409 });
    expect(await (await ask("cut", stream)).text()).toContain("[DONE]");
    await vi.waitFor(async () => expect((await used())[2]).toBe(body.max_tokens));
    expect((await used())[0]).toBe(1);
  });
});

describe("a stream that is resumed after its last event", () => {
  const ask = (headers: Record<string, string>, content: object = {}) =>
    app().complete(
      { ...body, stream: true, stream_options: { include_usage: true }, ...content },
      { headers: { "idempotency-key": "stream", ...headers } },
    );
  const eventsIn = async (response: Response) => (await response.text()).split("\n\n").slice(0, -1);
  const idOf = (event: string) => /^id: (\S+)\n/.exec(event)?.[1];
  const comparable = (event: string) => event.replaceAll(/"timings":\{[^}]*\}/g, "");

  test("has the events that the client lacks, wherever it broke off", async () => {
    const whole = await eventsIn(await ask({}));
    const ids = whole.map(idOf);
    // [DONE] alone has no id.
    expect(ids.filter((id) => id !== undefined)).toHaveLength(whole.length - 1);
    for (const [i, id] of ids.entries()) {
      if (id === undefined) continue;
      const rest = await eventsIn(await ask({ "last-event-id": id }));
      expect(rest.map(comparable), id).toEqual(whole.slice(i + 1).map(comparable));
    }
    await vi.waitFor(async () => expect((await used())[2]).toBe(body.max_tokens));
  });

  test("ends in numerics_mismatch if it is computed differently now", async () => {
    const [first] = await eventsIn(await ask({}));
    backendAnswers((sequence) => seededFrames({ ...sequence, sampling: { ...sequence.sampling, seed: 1 } }));
    const rest = await (await ask({ "last-event-id": idOf(first)! })).text();
    expect(rest).toContain("numerics_mismatch");
  });

  test.each([
    ["without a key", { "idempotency-key": "" }, {}],
    ["of several choices", { "last-event-id": "1-a" }, { n: 2 }],
    ["that is no stream", { "last-event-id": "1-a" }, { stream: false, stream_options: undefined }],
    ["after an unknown event", { "last-event-id": "x".repeat(5000) }, {}],
    ["after more events than it can have", { "last-event-id": "9999999-0" }, {}],
  ])("is refused: one %s", async (_, headers, content) => {
    const error = await errorOf(ask(headers as Record<string, string>, content));
    expect(error).toMatchObject({ status: 400, code: null });
    expect(error.message.length).toBeLessThan(300);
  });
});

test("a repeated request makes its file or job once", async () => {
  const { request, post } = app();
  const send = async (texts: string[]) => {
    const form = new FormData();
    form.set("purpose", "fine-tune");
    const lines = texts.map((text) => JSON.stringify({ prompt: text, completion: ` ${text}` }));
    form.set("file", new File([lines.join("\n")], "examples.jsonl"));
    return request("/v1/files", { method: "POST", body: form, headers: { "idempotency-key": "file" } });
  };
  const upload = async () => (await send(["a", "b", "c"])).json<FileObject>();
  // Two uploads at once and a third one later. Each form has its own boundary.
  const files = [...(await Promise.all([upload(), upload()])), await upload()];
  for (const file of files) expect(file).toEqual(files[0]);
  await expectError(send(["a", "b", "d"]), { status: 409, code: "idempotency_conflict" });
  const asked = { model: "gpt2", training_file: files[0].id };
  const create = () => jsonOf<Job>(post("/v1/fine_tuning/jobs", asked, { headers: { "idempotency-key": "job" } }));
  const jobs = [...(await Promise.all([create(), create()])), await create()];
  expect(new Set(jobs.map(({ id, model, created_at }) => `${id} ${model} ${created_at}`)).size).toBe(1);
  const listed = await own.json<{ data: Job[] }>("/v1/fine_tuning/jobs");
  expect(listed.data).toHaveLength(1);
});

test.each([
  ["an empty one", ""],
  ["one with a space", "a b"],
  [`one of ${limits.idempotencyKeyCharacters + 1} characters`, "k".repeat(limits.idempotencyKeyCharacters + 1)],
])("an invalid key is refused with limit and value: %s", async (_, key) => {
  const expected = { status: 400, param: "Idempotency-Key", mentions: String(limits.idempotencyKeyCharacters) };
  await expectError(app().complete(body, { headers: { "idempotency-key": key } }), expected);
});

describe("a ledger's keys", () => {
  const dayMs = 24 * 3_600_000;
  const use = { model: "m", centroid: null, requests: 1, promptTokens: 4, completionTokens: 6 };

  test("are forgotten after a day, and with the tenant; what was charged under them survives the object", async () => {
    const { ledger, inLedger } = newLedger();
    const at = (ms: number) =>
      inLedger((object) => {
        object.now = () => ms;
      });
    const startMs = Date.now();
    await at(startMs);
    expect(await ledger.claim("k", "digest")).toEqual({ createdMs: startMs });
    expect(await settle(ledger, "r1", [use], "k")).toEqual([use]);
    await at(startMs + dayMs - 1);
    expect(await ledger.claim("k", "digest")).toEqual({ createdMs: startMs });
    expect(await ledger.claim("k", "other")).toBeNull();
    const more = { ...use, completionTokens: 9 };
    const rest = { ...more, requests: 0, promptTokens: 0, completionTokens: 3 };
    expect(await settle(ledger, "r2", [more], "k")).toEqual([rest]);
    // The same settlement comes again, as after a lost answer.
    expect(await settle(ledger, "r2", [more], "k")).toEqual([]);
    await at(startMs + dayMs + 1);
    expect(await ledger.claim("k", "other")).toEqual({ createdMs: startMs + dayMs + 1 });
    await ledger.erase();
    expect(await ledger.claim("k", "third")).toEqual({ createdMs: startMs + dayMs + 1 });
  });

  test("what was charged counts only while the same adapters and memories answer", async () => {
    const { ledger, usage } = newLedger();
    await ledger.claim("k", "digest");
    expect(await settle(ledger, "r1", [use], "k:one")).toEqual([use]);
    expect(await settle(ledger, "r2", [use], "k:one")).toEqual([]);
    expect(await settle(ledger, "r3", [use], "k:two")).toEqual([use]);
    expect(await settle(ledger, "r4", [use], "k:one")).toEqual([use]);
    expect(await usage()).toMatchObject([{ requests: 3, completionTokens: 18 }]);
  });

  test("a settlement whose write fails is not recorded as charged", async () => {
    const { ledger, inLedger, usage } = newLedger();
    const query = (text: string) => inLedger((_, { storage }) => storage.sql.exec(text).toArray());
    await ledger.claim("k", "digest");
    await query("ALTER TABLE counts RENAME TO counts_away");
    const failure = await settle(ledger, "r1", [use], "k").then(() => "none", String);
    expect(failure).toMatch(/no such table: counts/);
    expect(await query("SELECT completionTokens FROM keys")).toEqual([{ completionTokens: 0 }]);
    await query("ALTER TABLE counts_away RENAME TO counts");
    // The first try counted the use in memory. A repeated try writes the use.
    await settle(ledger, "r1", [use], "k");
    expect(await usage()).toMatchObject([{ requests: 1, completionTokens: 6 }]);
  });
});
