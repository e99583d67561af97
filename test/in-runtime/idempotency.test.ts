/** Idempotency-Key: a repeated request gets the same answer and one charge; a broken stream resumes after its last event. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, test, vi } from "vitest";
import type { KeyStore } from "../../edge/tenants/keys.ts";
import { type Ledger, ledgerOf } from "../../edge/tenants/ledger.ts";
import type { FileObject, Job } from "../../shared/contracts/fine-tuning.ts";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { plans, scopes } from "../../shared/contracts/tenants.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import {
  backendAnswers,
  backendStreams,
  errorOf,
  LateBody,
  newTenants,
  settle,
  testApp,
  useNetwork,
} from "./harness.ts";

useNetwork();

let tenants = 0;
let tenant: string;
let keys: KeyStore;
let mine: Record<string, string>;
let theirs: Record<string, string>;
let seeds = 0;

const app = (isLimited = true) =>
  testApp({
    keys: isLimited ? limitedKeys(keys) : keys,
    randomSeed: () => seeds++,
    newId: () => crypto.randomUUID().replaceAll("-", ""),
  });

/** The same keys, but with the limits of the plan `standard`. */
function limitedKeys(all: KeyStore): KeyStore {
  return {
    ...all,
    accessOf: async (...asked) => ({ ...(await all.accessOf(...asked)), limits: plans.standard, scopes: [...scopes] }),
  };
}

/** A token depends on seed and index alone, as with a real backend. */
const tokenOf = ({ sampling: { seed } }: SequenceRequest, i: number) => 97 + ((seed! + 7 * i + i ** 2) % 26);
const framesOf = (sequence: SequenceRequest): Frame[] => [
  ...Array.from({ length: sequence.maxTokens }, (_, i) => tokenFrame(sequence.id, i, tokenOf(sequence, i))),
  { ...doneFrame(sequence.id), completionTokens: sequence.maxTokens },
];

beforeEach(async () => {
  ({ keys, tenant, mine, theirs } = await newTenants("keyed"));
  backendAnswers(framesOf);
});

async function usedBy(who: string) {
  const rows = await env.LEDGERS.getByName(who).usage("2000-01-01", "2100-01-01");
  const sum = (of: (row: (typeof rows)[number]) => number) => rows.reduce((total, row) => total + of(row), 0);
  return {
    requests: sum(({ requests }) => requests),
    promptTokens: sum(({ promptTokens }) => promptTokens),
    completionTokens: sum(({ completionTokens }) => completionTokens),
  };
}

const monthOf = (who: string) =>
  runInDurableObject(ledgerOf(env.LEDGERS, who), (ledger: Ledger) => ledger.quota.state.months[0]?.[1] ?? 0);

const body = { prompt: "aaaa", max_tokens: 6, temperature: 1 };
/** The parts of an answer that are equal when it is repeated: all but the timings. */
const essence = ({ id, created, choices, usage }: CompletionResponse) => ({
  ...{ id, created, usage },
  texts: choices.map(({ text }) => text),
});

describe.each([
  ["with limits", true],
  ["without limits", false],
])("a request of a tenant %s that is repeated under its Idempotency-Key", (_, isLimited) => {
  const ask = async (key: string, content: object = body, headers = mine) =>
    app(isLimited).complete(content, { headers: { ...headers, "idempotency-key": key } });

  test("has the same id, time, tokens and usage, at once and later, and is charged once", async () => {
    const responses = await Promise.all([ask("order-1"), ask("order-1"), ask("order-1")]);
    responses.push(await ask("order-1"));
    expect(responses.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    const answers = await Promise.all(responses.map((response) => response.json<CompletionResponse>()));
    expect(new Set(answers.map((one) => JSON.stringify(essence(one)))).size).toBe(1);
    const other = await (await ask("order-2")).json<CompletionResponse>();
    expect(other.id).not.toBe(answers[0].id);
    expect(other.choices[0].text).not.toBe(answers[0].choices[0].text);
    const { prompt_tokens, completion_tokens } = answers[0].usage!;
    const twice = { requests: 2, promptTokens: 2 * prompt_tokens, completionTokens: 2 * completion_tokens };
    await vi.waitFor(async () => expect(await usedBy(tenant)).toEqual(twice));
    if (isLimited) expect(await monthOf(tenant)).toBe(2 * (prompt_tokens + completion_tokens));
  });

  test("with another body or path is refused with 409, and another tenant's key is another one", async () => {
    const first = await (await ask("same")).json<CompletionResponse>();
    const other = await errorOf(await ask("same", { ...body, max_tokens: 5 }));
    expect(other).toMatchObject({ status: 409, code: "idempotency_conflict", param: "Idempotency-Key" });
    const chat = { messages: [{ role: "user", content: "aaaa" }], max_tokens: 6 };
    const init = { headers: { ...mine, "idempotency-key": "same" } };
    expect((await app(isLimited).post("/v1/chat/completions", chat, init)).status).toBe(409);
    expect((await (await ask("same", body, theirs)).json<CompletionResponse>()).id).not.toBe(first.id);
    // An invalid request leaves its key unused.
    expect((await ask("later", { ...body, max_tokens: -1 })).status).toBe(400);
    expect((await ask("later")).status).toBe(200);
  });

  test("after its client left is charged for the rest alone", async () => {
    const late = new LateBody();
    const seen = backendStreams((_, signal) => late.open(signal));
    const left = new AbortController();
    const headers = { ...mine, "idempotency-key": "cut" };
    const asked = app(isLimited).complete({ ...body, stream: true }, { headers, signal: left.signal });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
    const [sequence] = seen.batches[0].sequences;
    late.send(...framesOf(sequence).slice(0, 2));
    const reader = (await asked).body!.getReader();
    await reader.read();
    left.abort();
    await reader.cancel().catch(() => undefined);
    await vi.waitFor(async () => expect((await usedBy(tenant)).requests).toBe(1));
    expect((await usedBy(tenant)).completionTokens).toBeLessThan(body.max_tokens);
    backendAnswers(framesOf);
    const { usage } = await (await ask("cut", { ...body, stream: false })).json<
      CompletionResponse & { error?: object }
    >();
    // The key was used with stream: true, so this body is another request: it is refused.
    expect(usage).toBeUndefined();
    const text = await (await ask("cut", { ...body, stream: true })).text();
    expect(text).toContain("[DONE]");
    await vi.waitFor(async () => expect((await usedBy(tenant)).completionTokens).toBe(body.max_tokens));
    expect((await usedBy(tenant)).requests).toBe(1);
  });
});

describe("a stream that is resumed after its last event", () => {
  const ask = (headers: Record<string, string>, content: object = {}) =>
    app().complete(
      { ...body, stream: true, stream_options: { include_usage: true }, ...content },
      { headers: { ...mine, "idempotency-key": "stream", ...headers } },
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
    await vi.waitFor(async () => expect((await usedBy(tenant)).completionTokens).toBe(body.max_tokens));
  });

  test("ends in numerics_mismatch if it is computed differently now", async () => {
    const [first] = await eventsIn(await ask({}));
    backendAnswers((sequence) => framesOf({ ...sequence, sampling: { ...sequence.sampling, seed: 1 } }));
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
    const error = await errorOf(await ask(headers as Record<string, string>, content));
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
    const headers = { ...mine, "idempotency-key": "file" };
    return request("/v1/files", { method: "POST", body: form, headers });
  };
  const upload = async () => (await send(["a", "b", "c"])).json<FileObject>();
  // Two uploads at once and a third one later; each form has a boundary of its own.
  const files = [...(await Promise.all([upload(), upload()])), await upload()];
  for (const file of files) expect(file).toEqual(files[0]);
  expect(await errorOf(await send(["a", "b", "d"]))).toMatchObject({ status: 409, code: "idempotency_conflict" });
  const create = async () => {
    const content = { model: "gpt2", training_file: files[0].id };
    const response = await post("/v1/fine_tuning/jobs", content, { headers: { ...mine, "idempotency-key": "job" } });
    return response.json<Job>();
  };
  const jobs = [...(await Promise.all([create(), create()])), await create()];
  expect(new Set(jobs.map(({ id, model, created_at }) => `${id} ${model} ${created_at}`)).size).toBe(1);
  const listed = await (await request("/v1/fine_tuning/jobs", { headers: mine })).json<{ data: Job[] }>();
  expect(listed.data).toHaveLength(1);
});

test.each([
  ["an empty one", ""],
  ["one with a space", "a b"],
  [`one of ${limits.idempotencyKeyCharacters + 1} characters`, "k".repeat(limits.idempotencyKeyCharacters + 1)],
])("an invalid key is refused with limit and value: %s", async (_, key) => {
  const error = await errorOf(await app().complete(body, { headers: { ...mine, "idempotency-key": key } }));
  expect(error).toMatchObject({ status: 400, param: "Idempotency-Key" });
  expect(error.message).toContain(String(limits.idempotencyKeyCharacters));
});

describe("a ledger's keys", () => {
  const dayMs = 24 * 3_600_000;
  const used = { model: "m", centroid: null, requests: 1, promptTokens: 4, completionTokens: 6 };

  test("are forgotten after a day, and with the tenant; what was charged under them survives the object", async () => {
    const ledger = env.LEDGERS.getByName(`keys-${tenants++}`);
    let nowMs = Date.now();
    const at = async (ms: number) => {
      nowMs = ms;
      await runInDurableObject(ledger, (object: Ledger) => {
        object.now = () => nowMs;
      });
    };
    const startMs = nowMs;
    await at(startMs);
    expect(await ledger.claim("k", "digest")).toEqual({ createdMs: startMs });
    expect(await settle(ledger, "r1", [used], "k")).toEqual([used]);
    await at(startMs + dayMs - 1);
    expect(await ledger.claim("k", "digest")).toEqual({ createdMs: startMs });
    expect(await ledger.claim("k", "other")).toBeNull();
    const more = { ...used, completionTokens: 9 };
    expect(await settle(ledger, "r2", [more], "k")).toEqual([
      { ...more, requests: 0, promptTokens: 0, completionTokens: 3 },
    ]);
    // The same settlement is repeated, as after a lost answer.
    expect(await settle(ledger, "r2", [more], "k")).toEqual([]);
    await at(startMs + dayMs + 1);
    expect(await ledger.claim("k", "other")).toEqual({ createdMs: startMs + dayMs + 1 });
    await ledger.erase();
    expect(await ledger.claim("k", "third")).toEqual({ createdMs: startMs + dayMs + 1 });
  });

  test("what was charged counts only while the same adapters and memories answer", async () => {
    const ledger = env.LEDGERS.getByName(`keys-${tenants++}`);
    await ledger.claim("k", "digest");
    expect(await settle(ledger, "r1", [used], "k:one")).toEqual([used]);
    expect(await settle(ledger, "r2", [used], "k:one")).toEqual([]);
    expect(await settle(ledger, "r3", [used], "k:two")).toEqual([used]);
    expect(await settle(ledger, "r4", [used], "k:one")).toEqual([used]);
    expect(await ledger.usage("2000-01-01", "2100-01-01")).toMatchObject([{ requests: 3, completionTokens: 18 }]);
  });

  test("a settlement whose write fails is not recorded as charged", async () => {
    const ledger = env.LEDGERS.getByName(`keys-${tenants++}`);
    await ledger.claim("k", "digest");
    await runInDurableObject(ledger, (_: Ledger, state) => {
      state.storage.sql.exec("ALTER TABLE counts RENAME TO counts_away");
    });
    const failure = await settle(ledger, "r1", [used], "k").then(() => "none", String);
    expect(failure).toMatch(/no such table: counts/);
    const stored = await runInDurableObject(ledger, (_: Ledger, state) =>
      state.storage.sql.exec("SELECT completionTokens FROM keys").toArray(),
    );
    expect(stored).toEqual([{ completionTokens: 0 }]);
    await runInDurableObject(ledger, (_: Ledger, state) => {
      state.storage.sql.exec("ALTER TABLE counts_away RENAME TO counts");
    });
    // The first try counted the use in memory; the repeated one under the same id writes it.
    await settle(ledger, "r1", [used], "k");
    expect(await ledger.usage("2000-01-01", "2100-01-01")).toMatchObject([{ requests: 1, completionTokens: 6 }]);
  });
});
