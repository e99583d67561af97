/** Keys, scopes, limits, usage and origins, with real KV and each tenant's real ledger. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import { pause } from "../../edge/platform/clock.ts";
import { BodyReads } from "../../edge/tenants/body-reads.ts";
import type { Consumption } from "../../edge/tenants/consumption.ts";
import { createKeyStore, scopeOf } from "../../edge/tenants/keys.ts";
import { Ledger } from "../../edge/tenants/ledger.ts";
import { otherModels } from "../../edge/tenants/ledger-store.ts";
import { reservationMs } from "../../edge/tenants/quota.ts";
import { createRecords } from "../../edge/tenants/records.ts";
import { limits } from "../../shared/contracts/limits.ts";
import {
  type KeyRecord,
  keyPrefix,
  plans,
  revokedPrefix,
  type TenantRecord,
  tenantPrefix,
} from "../../shared/contracts/tenants.ts";
import { keyEntry } from "../support/key-records.ts";
import { expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, LateBody, saying } from "./backend.ts";
import { recordedTracing, testApp, unreadBody } from "./harness.ts";
import { ledgerOfTenant, reportedByCells, settle } from "./objects.ts";

const one = { prompt: "aaa", max_tokens: 1 };
const requestsIn = ({ seconds }: { seconds: [number, { requests: number }][] }) =>
  seconds.reduce((sum, [, { requests }]) => sum + requests, 0);
let names = 0;

interface TenantParts extends Partial<Dependencies> {
  key?: Partial<KeyRecord>;
}

/** Makes a new tenant with one key, and an app that sends the key. The backend writes b's; `parts` replace parts of the app. */
async function tenantWith(record: Partial<TenantRecord> = {}, { key = {}, ...parts }: TenantParts = {}) {
  const tenant = `tenant-${names++}`;
  const secret = `sk-${crypto.randomUUID()}`;
  const tenantRecord: TenantRecord = { plan: "unlimited", limits: {}, origins: [], ...record };
  const put = async (change: Partial<KeyRecord>) =>
    env.TENANTS.put(...(await keyEntry(secret, tenant, {}, { tenantRecord, ...key, ...change })));
  const [name] = await keyEntry(secret, tenant);
  const revoke = () => env.TENANTS.put(name.replace(keyPrefix, revokedPrefix), '{"revokedAt":"2026-11-01T00:00:00Z"}');
  await put({});
  await env.TENANTS.put(tenantPrefix + tenant, JSON.stringify(tenantRecord));
  const seen = backendAnswers(({ id, maxTokens }) => saying(id, "b".repeat(maxTokens)));
  const app = testApp(parts, `Bearer ${secret}`);
  return { tenant, secret, put, revoke, seen, ...ledgerOfTenant(tenant), ...app };
}

const today = () => new Date().toISOString().slice(0, 10);

describe("a key", () => {
  test("opens the API for its tenant by one look-up, as the key's record holds a copy of the tenant's record", async () => {
    const { complete, tenant, seen, secret, put } = await tenantWith({ limits: { requestsPerMinute: 5 } });
    expect((await complete(one)).status).toBe(200);
    expect(seen.batches[0].sequences[0].tenant).toBe(tenant);
    const read: string[] = [];
    const namespace = {
      get(name: string, options: { type: "json"; cacheTtl: number }) {
        read.push(name.split(":")[0]);
        return env.TENANTS.get(name, options);
      },
      list: () => Promise.reject(new Error("not to be listed")),
    };
    const records = createRecords(namespace, Date.now, () => undefined);
    await put({ tenantRecord: { plan: "unlimited", limits: { requestsPerMinute: 9 }, origins: [] } });
    const { limits } = await createKeyStore([], records, Date.now).accessOf(secret, "");
    expect([read, limits.requestsPerMinute]).toEqual([["key", "end", "revoked"], 9]);
  });

  test("that is expired or revoked is refused, and says so", async () => {
    let nowMs = Date.parse("2026-11-10T00:00:00Z");
    const key = { expiresAt: "2026-11-10T00:00:10.000Z" };
    const { request, revoke } = await tenantWith({}, { key, now: () => nowMs });
    expect((await request("/v1/models")).status).toBe(200);
    nowMs += 10_000;
    await expectError(request("/v1/models"), { status: 401, code: "invalid_api_key", mentions: key.expiresAt });
    await revoke();
    nowMs += 2000;
    await expectError(request("/v1/models"), { mentions: "revoked" });
  });

  test("that shares only the first characters with a stored one is unknown", async () => {
    const { request, put } = await tenantWith();
    await put({ hash: "0".repeat(64) });
    await expectError(request("/v1/models"), { status: 401 });
  });

  test("is served from memory for a second, and then looked up again", async () => {
    let nowMs = 0;
    const { request, revoke } = await tenantWith({}, { now: () => nowMs });
    const status = async () => (await request("/v1/models")).status;
    expect(await status()).toBe(200);
    await revoke();
    expect(await status()).toBe(200);
    nowMs += 1000;
    expect(await status()).toBe(401);
  });

  test("without the scope of a route: 403 that names it", async () => {
    const { complete, request } = await tenantWith({}, { key: { scopes: ["usage"] } });
    const expected = { status: 403, type: "permission_error", code: "insufficient_permissions" };
    await expectError(complete({ prompt: "aaa" }), { ...expected, mentions: "completions" });
    expect((await request("/v1/usage")).status).toBe(200);
    expect((await request("/v1/models")).status).toBe(200);
  });

  test("has a scope for every route, or none needed", () => {
    const paths = new Set(testApp().app.routes.map(({ path }) => path));
    const versioned = [...paths].filter((path) => path.startsWith("/v1/") && path !== "/v1/*");
    expect(versioned.length).toBeGreaterThan(4);
    expect(versioned.filter((path) => scopeOf(path) === undefined)).toEqual([]);
  });
});

test("a caller's trace is continued with a valid key only; without one it has no effect", async () => {
  const traceId = "a".repeat(32);
  const traceparent = `00-${traceId}-${"b".repeat(16)}-01`;
  // The trace id is drawn from the ids below, the highest possible, so none of our own traces is sampled.
  const { lines, spans, tracing } = recordedTracing(0.001);
  const { request } = testApp({ tracing, newId: () => "f".repeat(32) });
  for (const path of ["/v1/models", "/v1/nothing", "/healthz", "/"]) {
    for (const authorization of ["Bearer sk-wrong", "Bearer", ""]) {
      await request(path, { headers: { traceparent, authorization } });
    }
  }
  expect(lines).toHaveLength(12);
  expect(spans).toEqual([]);
  expect(lines.filter((line) => line.traceId === traceId)).toEqual([]);
  await request("/v1/models", { headers: { traceparent } });
  expect(spans).toMatchObject([{ traceId, parentSpanId: "b".repeat(16), name: "GET /v1/models" }]);
  expect(lines.at(-1)).toMatchObject({ traceId });
});

describe("limits", () => {
  test("of 500 requests at once exactly as many pass as a minute may have", async () => {
    const { complete, settled, stateOf, usage } = await tenantWith({ limits: { requestsPerMinute: 120 } });
    const startedMs = Date.now();
    const asked = Array.from({ length: 500 }, () => complete({ prompt: "aaa", max_tokens: 2 }));
    const responses = await Promise.all(asked);
    const passed = responses.filter(({ status }) => status === 200);
    const refused = responses.filter(({ status }) => status === 429);
    expect([passed.length, refused.length]).toEqual([120, 380]);
    const remaining = passed.map((response) => Number(response.headers.get("x-ratelimit-remaining-requests")));
    expect(remaining.sort((a, b) => a - b)).toEqual(Array.from({ length: 120 }, (_, i) => i));
    const tookSeconds = Math.ceil((Date.now() - startedMs) / 1000);
    for (const response of refused) {
      const seconds = Number(response.headers.get("retry-after"));
      expect(seconds).toBeGreaterThanOrEqual(60 - tookSeconds);
      expect(seconds).toBeLessThanOrEqual(61);
    }
    const expected = { type: "rate_limit_error", code: "rate_limit_exceeded", mentions: "120 requests a minute" };
    await expectError(refused[0], expected);
    // A large answer is settled when it has been read.
    await Promise.all(passed.map((response) => response.text()));
    await settled();
    expect(await usage()).toMatchObject([{ requests: 120, promptTokens: 360, completionTokens: 240 }]);
    const state = await stateOf();
    expect(state.open).toEqual([]);
    expect(state.seconds.reduce((sum, [, second]) => sum + second.tokens, 0)).toBe(600);
  });

  test("of requests: what is known to be refused is refused before any work, until there is room or the limit changes", async () => {
    let nowMs = Date.now();
    const { complete, inLedger, put, stateOf } = await tenantWith(
      { limits: { requestsPerMinute: 1 } },
      { now: () => nowMs },
    );
    expect((await complete(one)).status).toBe(200);
    const first = await complete(one);
    expect(first.status).toBe(429);
    // From here on the ledger would admit the request, so a refusal shows that the ledger is not asked.
    await inLedger((object) => {
      object.now = () => Date.now() + 61_000;
    });
    nowMs += 2000;
    const known = await complete({ prompt: "" });
    expect([known.status, known.headers.get("x-ratelimit-remaining-requests")]).toEqual([429, "0"]);
    expect(Number(first.headers.get("retry-after")) - Number(known.headers.get("retry-after"))).toBe(2);
    await put({ tenantRecord: { plan: "unlimited", limits: { requestsPerMinute: 9 }, origins: [] } });
    nowMs += 1000;
    expect((await complete(one)).status).toBe(200);
    expect((await stateOf()).seconds).toHaveLength(1);
  });

  test("of requests: an assignment counts as one, without tokens, and is not reported as use", async () => {
    const some = { requestsPerMinute: 2, tokensPerMinute: 5 };
    const { post, settled, stateOf, usage } = await tenantWith({ limits: some });
    const assign = () => post("/v1/assign", { input: "aaa".repeat(100) });
    const first = await assign();
    expect([first.status, first.headers.get("x-ratelimit-remaining-requests")]).toEqual([200, "1"]);
    expect((await assign()).status).toBe(200);
    await expectError(assign(), { status: 429, code: "rate_limit_exceeded" });
    await settled();
    expect((await stateOf()).open).toEqual([]);
    expect(await usage()).toEqual([]);
  });

  test("of tokens: reserved at the start, settled at what was used", async () => {
    const { complete, settled } = await tenantWith({ limits: { tokensPerMinute: 40 } });
    backendAnswers(({ id }) => saying(id, "bb", { finish: "stop" }));
    const first = await complete({ prompt: "aaa", max_tokens: 16, n: 2 });
    expect(first.headers.get("x-ratelimit-limit-tokens")).toBe("40");
    expect(first.headers.get("x-ratelimit-remaining-tokens")).toBe(String(40 - 3 - 2 * 16));
    expect(first.headers.get("x-ratelimit-reset-tokens")).toMatch(/^(1m\ds|\d+s)$/);
    await first.text();
    await settled();
    const second = await complete({ prompt: "aaa", max_tokens: 16 });
    expect(second.headers.get("x-ratelimit-remaining-tokens")).toBe(String(40 - 7 - 19));
    const never = await complete({ prompt: "aaa", max_tokens: 40 });
    expect(never.headers.get("x-should-retry")).toBe("false");
    await expectError(never, { status: 429, retryAfter: null });
  });

  test("of a month: 429 as OpenAI's insufficient_quota until the next", async () => {
    const { complete, settled } = await tenantWith({ limits: { tokensPerMonth: 10 } });
    await (await complete({ prompt: "aaa", max_tokens: 4 })).text();
    await settled();
    const secondsToNextMonth = () =>
      (Date.UTC(new Date().getUTCFullYear(), new Date().getUTCMonth() + 1) - Date.now()) / 1000;
    const before = secondsToNextMonth();
    const response = await complete(one);
    const retryAfter = Number(response.headers.get("retry-after"));
    expect(retryAfter).toBeGreaterThanOrEqual(Math.floor(secondsToNextMonth()));
    expect(retryAfter).toBeLessThanOrEqual(Math.ceil(before) + 1);
    await expectError(response, { status: 429, code: "insufficient_quota" });
  });

  test("of requests at once: free again when the stream ends, fails, or loses its reader", async () => {
    const { lines, tracing } = recordedTracing();
    const { complete, usage, stateOf } = await tenantWith(
      { limits: { concurrentRequests: 1 } },
      { heartbeatMs: 5, tracing },
    );
    const bodies: LateBody[] = [];
    let isFailing = false;
    const seen = backendStreams((_, signal) => {
      if (isFailing) return new Response(null, { status: 500 });
      bodies.push(new LateBody());
      return bodies.at(-1)!.open(signal);
    });
    const stream = () => complete({ prompt: "aaa", max_tokens: 9, stream: true });
    const isFree = () => vi.waitFor(async () => expect((await stateOf()).open).toEqual([]));

    const reader = (await stream()).body!.getReader();
    await expectError(stream(), { status: 429, code: "rate_limit_exceeded" });
    expect(lines).toMatchObject([{ "chameleon.refused_by": "concurrentRequests", "http.response.status_code": 429 }]);
    const { id } = seen.batches[0].sequences[0];
    bodies[0].send(...saying(id, "bbbb").slice(0, 3));
    for (let text = ""; !text.includes("data:"); ) text += new TextDecoder().decode((await reader.read()).value);
    await reader.read();
    await reader.cancel();
    await isFree();
    // The charge is the prompt and the tokens generated before the client left.
    const [used] = await usage();
    expect(used).toMatchObject({ requests: 1, promptTokens: 3 });
    expect(used.completionTokens).toBeGreaterThan(0);
    expect(used.completionTokens).toBeLessThanOrEqual(3);

    const broken = await stream();
    // The backend refuses the call that is sent again.
    isFailing = true;
    bodies[1].end("fail");
    expect(await broken.text()).toContain("backend_unavailable");
    await isFree();
    // The request that failed is charged nothing.
    expect(await usage()).toMatchObject([{ requests: 1 }]);

    isFailing = false;
    const whole = await stream();
    await vi.waitFor(() => expect(bodies).toHaveLength(3));
    bodies[2].send(...saying(seen.batches.at(-1)!.sequences[0].id, "bbbb"));
    bodies[2].end();
    expect(await whole.text()).toContain("[DONE]");
    await isFree();
    expect(await usage()).toMatchObject([{ requests: 2, promptTokens: 6 }]);
  });

  test("of requests at once: free again if the caller leaves before its request is sent anywhere", async () => {
    const { complete, usage, stateOf } = await tenantWith({ limits: { concurrentRequests: 1 } });
    expect((await complete(one, { signal: AbortSignal.abort() })).status).toBe(499);
    await vi.waitFor(async () => expect((await stateOf()).open).toEqual([]), { timeout: 5000 });
    expect(await usage()).toEqual([]);
  });

  test("of requests at once: an isolate that is gone holds its place no longer than its lease", async () => {
    const { complete, ledger, inLedger } = await tenantWith({ limits: { concurrentRequests: 1 } });
    expect((await ledger.admit("gone", { ...plans.unlimited, concurrentRequests: 1 })).refusal).toBeNull();
    expect((await complete(one)).status).toBe(429);
    await inLedger((object) => {
      object.now = () => Date.now() + reservationMs;
    });
    expect((await complete(one)).status).toBe(200);
  });

  test("of requests at once: refuse a body that is large, or of unknown length, unread", async () => {
    const some = { requestsPerMinute: 9, concurrentRequests: 1 };
    const { request, settled, ledger, stateOf } = await tenantWith({ limits: some });
    await ledger.admit("running", { ...plans.unlimited, ...some });
    for (const length of [limits.bodyBytes, null]) {
      const read = unreadBody();
      const headers = new Headers({ "content-type": "application/json" });
      if (length !== null) headers.set("content-length", String(length));
      const response = await request("/v1/completions", { method: "POST", body: read.body, headers });
      expect([response.status, response.headers.get("retry-after"), read.times]).toEqual([429, "1", 0]);
      await settled();
      expect((await stateOf()).open).toHaveLength(1);
    }
  });

  test("count a large body once, and its tokens; a small one takes a single call to the ledger", async () => {
    const some = { requestsPerMinute: 9, tokensPerMinute: 10 };
    const { post, settled, stateOf } = await tenantWith({ limits: some });
    const calls = [vi.spyOn(Ledger.prototype, "admit"), vi.spyOn(Ledger.prototype, "reserve")];
    onTestFinished(() => calls.forEach((call) => void call.mockRestore()));
    const ask = async (max_tokens: number, padding: string) => {
      const response = await post("/v1/completions", JSON.stringify({ prompt: "aaa", max_tokens }) + padding);
      await response.text();
      await settled();
      const state = await stateOf();
      return [response.status, requestsIn(state), state.open, ...calls.map(({ mock }) => mock.calls.length)];
    };
    expect(await ask(1, "")).toEqual([200, 1, [], 1, 0]);
    const padding = " ".repeat(100_000);
    expect(await ask(2, padding)).toEqual([200, 2, [], 2, 1]);
    // The tokens of this request exceed the limit, so the request is refused.
    expect(await ask(9, padding)).toEqual([429, 3, [], 3, 2]);
  });

  test("refuse without the headers of other refusals, such as retry-after or allow", async () => {
    const bodyReads = new BodyReads(0);
    const { post } = await tenantWith({}, { bodyReads });
    await expectError(post("/v1/completions", one), { status: 429, retryAfter: "1" });
    const notAllowed = await post("/v1/usage", one);
    expect([notAllowed.status, notAllowed.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
    for (const path of ["/v1/completions", "/v1/usage"]) {
      // A new app remembers no refusal.
      const app = await tenantWith({ limits: { requestsPerMinute: 0 } }, { bodyReads });
      const refused = await app.post(path, one);
      const told = ["retry-after", "allow", "x-should-retry"].map((name) => refused.headers.get(name));
      expect([path, refused.status, ...told]).toEqual([path, 429, null, null, "false"]);
    }
  });

  test("are still known when the ledger's object was evicted", async () => {
    const some = { requestsPerMinute: 2, concurrentRequests: 9 };
    const { complete, settled, ledger, stateOf } = await tenantWith({ limits: some });
    await (await complete(one)).text();
    await settled();
    await ledger.admit("running", { ...plans.unlimited, requestsPerMinute: 2 });
    await ledger.reserve("running", 7, { ...plans.unlimited, requestsPerMinute: 2 });
    // This settlement is written after all earlier changes, so they are stored once it resolves.
    await settle(ledger, "another", []);
    const known = async () => {
      const { settled, ...state } = await stateOf();
      return { ...state, settled: settled.map(([id]) => id) };
    };
    const before = await known();
    await evictDurableObject(ledger);
    expect(await known()).toEqual(before);
    expect((await complete(one)).status).toBe(429);
  });

  const conversation = { messages: [{ role: "user", content: "a ".repeat(1e5) }] };
  /** Every kind of POST that a key may send and that is refused for its content: title, path, body, status, content type. */
  const refused: [string, string, BodyInit, number, string?][] = [
    ["an empty prompt", "/v1/completions", '{"prompt":""}', 400],
    ["a prompt over the context", "/v1/completions", JSON.stringify({ prompt: "the ".repeat(2e5) }), 400],
    ["an unknown model", "/v1/completions", '{"prompt":"a","model":"b"}', 404],
    ["a long conversation", "/v1/chat/completions", JSON.stringify(conversation), 400],
    ["ids of no vocabulary", "/v1/assign", '{"input":[1000000]}', 400],
    ["a long input", "/v1/embeddings", JSON.stringify({ input: "a ".repeat(2e5) }), 400],
    ["one example", "/v1/adapters", '{"name":"a","examples":["aa"]}', 400],
    ["no JSON", "/v1/completions", "{", 400],
    ["another content type", "/v1/completions", "a", 415, "text/plain"],
    ["a large body", "/v1/completions", " ".repeat(limits.bodyBytes + 1), 413],
    ["no route", "/v1/nothing", "{}", 404],
  ];
  test.each(refused)("of requests: %s counts as one, and holds no place", async (_, path, body, status, type) => {
    const some = { requestsPerMinute: 2, concurrentRequests: 1 };
    const { request, settled, stateOf, usage } = await tenantWith({ limits: some });
    const headers = { "content-type": type ?? "application/json" };
    const ask = () => request(path, { method: "POST", body, headers });
    for (const remaining of ["1", "0"]) {
      const response = await ask();
      expect([response.status, response.headers.get("x-ratelimit-remaining-requests")]).toEqual([status, remaining]);
      await settled();
      expect((await stateOf()).open).toEqual([]);
    }
    await expectError(ask(), { status: 429, code: "rate_limit_exceeded" });
    expect(await usage()).toEqual([]);
  });

  test("of requests: an invalid one is refused with 503 where its ledger cannot be called, as it must be counted", async () => {
    const { complete } = await tenantWith({ limits: { requestsPerMinute: 2 } });
    const away = vi.spyOn(Ledger.prototype, "admit").mockRejectedValue(new Error("away"));
    onTestFinished(() => away.mockRestore());
    await expectError(complete({ prompt: "" }), { status: 503, retryAfter: "1" });
  });

  test.each([
    ["a month that is used up", { tokensPerMonth: 4 }, "insufficient_quota", [200, 429]],
    ["a month without tokens", { tokensPerMonth: 0 }, "insufficient_quota", [429]],
    ["a minute without requests", { requestsPerMinute: 0 }, "rate_limit_exceeded", [429]],
  ])("%s is asked of the ledger once, and then refuses every request unread", async (_, limit, code, before) => {
    const { complete, request, settled, inLedger } = await tenantWith({ limits: limit });
    for (const status of before) {
      expect((await complete(one)).status).toBe(status);
      await settled();
    }
    // From here on the ledger would admit all requests, so refusals show that the ledger is not asked.
    await inLedger((object) => {
      object.quota.admit = () => ({ refusal: null, requests: null, tokens: null });
    });
    const paths = ["/v1/completions", "/v1/chat/completions", "/v1/assign", "/v1/embeddings", "/v1/adapters"];
    const headers = { "content-type": "application/json" };
    for (const path of [...paths, ...paths]) {
      const read = unreadBody();
      await expectError(request(path, { method: "POST", body: read.body, headers }), { status: 429, code });
      expect([path, read.times]).toEqual([path, 0]);
    }
  });

  test("of tokens: a request that has none left counts as one, holds no place, and the next that fits may run", async () => {
    const some = { requestsPerMinute: 9, tokensPerMinute: 10, tokensPerMonth: 1000, concurrentRequests: 1 };
    const { complete, settled, stateOf } = await tenantWith({ limits: some });
    const told: (string | number | null)[][] = [];
    for (const max_tokens of [2, 8, 2]) {
      const response = await complete({ prompt: "aaa", max_tokens });
      told.push([response.status, response.headers.get("x-ratelimit-remaining-requests")]);
      await response.text();
      await settled();
      expect((await stateOf()).open).toEqual([]);
    }
    expect(told.flat()).toEqual([200, "8", 429, "7", 200, "6"]);
  });

  test("are in no header for a tenant without limits", async () => {
    const response = await (await tenantWith()).complete(one);
    expect([...response.headers.keys()].filter((name) => name.startsWith("x-ratelimit"))).toEqual([]);
  });
});

describe("usage", () => {
  test("is reported by day, model and centroid, to its own tenant alone", async () => {
    const { request, complete, tenant } = await tenantWith();
    const other = await tenantWith();
    const reported = await reportedByCells();
    await complete({ prompt: ["aaa", "bb"], max_tokens: 2, n: 2 });
    await complete({ ...one, model: "gpt2:c1" });
    await complete({ ...one, model: "gpt2" });
    const told = (query = "") => jsonOf<{ total: { requests: number } }>(request(`/v1/usage${query}`));
    // Use of tenants without limits is settled in groups, seconds later.
    await vi.waitFor(async () => expect((await told()).total.requests).toBe(3), { timeout: 5000 });
    const day = today();
    expect(await told()).toMatchObject({
      ...{ object: "list", tenant, from: `${day.slice(0, 7)}-01`, to: day },
      data: [
        { day, model: "gpt2", centroid: null, requests: 1, prompt_tokens: 3, completion_tokens: 1 },
        { day, model: "gpt2:auto", centroid: "c0", requests: 1, prompt_tokens: 3, completion_tokens: 4 },
        { day, model: "gpt2:auto", centroid: "c1", requests: 0, prompt_tokens: 2, completion_tokens: 4 },
        { day, model: "gpt2:c1", centroid: "c1", requests: 1, prompt_tokens: 3, completion_tokens: 1 },
      ],
      total: { requests: 3, prompt_tokens: 11, completion_tokens: 10, total_tokens: 21 },
      limits: { requests_per_minute: null },
    });
    const events: Consumption[] = [];
    await vi.waitFor(() => {
      for (const [who, ...consumed] of reported()) {
        expect(who).toBe(tenant);
        events.push(...consumed);
      }
      const sum = (count: (event: Consumption) => number) => events.reduce((total, event) => total + count(event), 0);
      expect([sum((event) => event.requests), sum((event) => event.promptTokens)]).toEqual([3, 11]);
      expect(sum((event) => event.completionTokens)).toBe(10);
    });
    const others = await jsonOf(other.request("/v1/usage"));
    expect(others).toMatchObject({ tenant: other.tenant, data: [], total: { requests: 0 } });
    expect(await told("?from=2025-01-01&to=2025-12-31")).toMatchObject({ data: [] });
  });

  /** Delay in milliseconds, above the longest time that an answer's end waits for its ledger. */
  const slowMs = 1500;
  const patience = { timeout: 10_000 };
  const stored = (ledger: DurableObjectStub<Ledger>) =>
    runInDurableObject(ledger, (_: Ledger, { storage }) => {
      const months = storage.sql.exec<{ value: string }>("SELECT value FROM counts WHERE kind = 'months'").toArray();
      return months.map(({ value }) => Number(value));
    });

  test.each([
    ["a stream", "/v1/completions", { prompt: "aaa", max_tokens: 9, stream: true }, 12],
    ["a whole answer", "/v1/completions", { prompt: "aaa", max_tokens: 9 }, 12],
    ["embeddings", "/v1/embeddings", { model: "gpt2", input: "aaa" }, 3],
    ["many embeddings", "/v1/embeddings", { model: "gpt2", input: Array(200).fill("aaa") }, 600],
  ])("of %s is stored when its last byte is read", async (_, path, body, tokens) => {
    for (const plan of ["standard", "unlimited"] as const) {
      const { post, ledger } = await tenantWith({ plan });
      const response = await post(path, body);
      expect(response.status).toBe(200);
      await response.text();
      expect(await stored(ledger), plan).toEqual([tokens]);
    }
  });

  test("delays the end of a stream until it is stored, but no token; where the ledger is slow, the cell stores it", async () => {
    for (const plan of ["standard", "unlimited"] as const) {
      const { complete, ledger, usage } = await tenantWith({ plan });
      const settleAll = Ledger.prototype.settleAll;
      const settleLate = async function (this: Ledger, ...given: Parameters<typeof settleAll>) {
        await pause(slowMs);
        return settleAll.apply(this, given);
      };
      const slow = vi.spyOn(Ledger.prototype, "settleAll").mockImplementationOnce(settleLate);
      onTestFinished(() => slow.mockRestore());
      const response = await complete({ prompt: "aaa", max_tokens: 9, stream: true });
      let text = "";
      const storedBefore: number[][] = [];
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        if (text.split('"text":"b"').length > 9) storedBefore.push(await stored(ledger));
      }
      // The tokens were sent first, and the stream ended before the ledger had stored its use.
      expect(storedBefore.length).toBeGreaterThan(1);
      expect(storedBefore.flat()).toEqual([]);
      expect(text).toMatch(/"finish_reason":"[a-z]+".*\n\ndata: \[DONE\]\n\n$/);
      // The cell sends the settlement again; the ledger counts it once.
      await vi.waitFor(() => expect(slow).toHaveBeenCalledTimes(2), patience);
      await vi.waitFor(async () => expect(await stored(ledger)).toEqual([12]), patience);
      expect(await usage()).toMatchObject([{ requests: 1, completionTokens: 9 }]);
      slow.mockRestore();
    }
  });

  test("has a bounded number of rows a day; use beyond them is counted in one row", async () => {
    const { ledger, usage } = await tenantWith();
    const consumed = Array.from({ length: limits.usageRowsPerDay + 50 }, (_, i) => ({
      ...{ model: `gpt2:made-${i}-${"x".repeat(300)}`, centroid: null },
      ...{ requests: 1, promptTokens: 2, completionTokens: 1 },
    }));
    for (const id of ["first", "second"]) await settle(ledger, id, consumed);
    const rows = await usage();
    expect(rows).toHaveLength(limits.usageRowsPerDay + 1);
    expect(Math.max(...rows.map(({ model }) => model.length))).toBeLessThanOrEqual(limits.modelCharacters);
    const sum = (count: (row: Consumption) => number) => rows.reduce((total, row) => total + count(row), 0);
    expect(sum((row) => row.requests)).toBe(2 * consumed.length);
    expect(sum((row) => row.promptTokens)).toBe(4 * consumed.length);
    expect(rows.find(({ model }) => model === otherModels)).toMatchObject({ requests: 100 });
  });

  test("of more rows than one answer may have: 400 that names both", async () => {
    const { request, ledger } = await tenantWith();
    await runInDurableObject(ledger, (_: Ledger, { storage }) => {
      storage.sql.exec(
        `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= ${limits.usageRows})
         INSERT INTO usage SELECT ?, 'm' || i, '', 1, 1, 1 FROM n`,
        today(),
      );
    });
    await expectError(request("/v1/usage"), { status: 400, param: "from", mentions: String(limits.usageRows) });
  });

  test.each([
    ["from=yesterday", "from"],
    ["from=2026-13-01", "from"],
    ["from=2026-02-02&to=2026-02-01", "0"],
    ["from=2020-01-01&to=2026-01-01", "366"],
  ])("refuses %s", async (query, mentioned) => {
    const expected = { status: 400, type: "invalid_request_error", mentions: mentioned };
    await expectError(testApp().request(`/v1/usage?${query}`), expected);
  });
});

describe("a call from a web page", () => {
  const page = "https://app.example.com";

  test("is preceded by a preflight, which anybody may make", async () => {
    const headers = {
      ...{ origin: page, "access-control-request-method": "POST" },
      "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    };
    const response = await testApp().app.request("http://edge/v1/completions", { method: "OPTIONS", headers });
    const allowed = (what: string) => response.headers.get(`access-control-allow-${what}`);
    expect([response.status, allowed("origin")]).toEqual([204, page]);
    expect(allowed("headers")).toContain("x-stainless-lang");
    expect(allowed("methods")).toContain("POST");
  });

  test("is served to origins of the key's tenant and our own, and refused before any work to others", async () => {
    const { complete, stateOf } = await tenantWith({ origins: [page], limits: { requestsPerMinute: 9 } });
    const from = async (origin: string, more: object = {}) => {
      const response = await complete(one, { headers: { origin, ...more } });
      return { response, told: [response.status, response.headers.get("access-control-allow-origin")] };
    };
    const served = await from(page);
    expect(served.told).toEqual([200, page]);
    expect(served.response.headers.get("vary")).toContain("origin");
    expect(served.response.headers.get("access-control-expose-headers")).toContain("x-request-id");
    expect((await from("http://edge")).told).toEqual([200, null]);
    expect((await from(page, { authorization: "Bearer nobody" })).told).toEqual([401, page]);
    const refused = await from("https://evil.example");
    expect(refused.told).toEqual([403, null]);
    await expectError(refused.response, { mentions: /evil\.example.*`chameleon keys limits \S+ --origin/ });
    expect(requestsIn(await stateOf())).toBe(2);
  });
});
