/** Keys, scopes, limits, usage and origins, with real KV and each tenant's real ledger. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import type { Consumption } from "../../edge/tenants/consumption.ts";
import { Ledger } from "../../edge/tenants/ledger.ts";
import { otherModels } from "../../edge/tenants/ledger-store.ts";
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
import { ledgerOfTenant, settle } from "./objects.ts";

const one = { prompt: "aaa", max_tokens: 1 };
const requestsIn = ({ seconds }: { seconds: [number, { requests: number }][] }) =>
  seconds.reduce((sum, [, { requests }]) => sum + requests, 0);
let names = 0;

interface TenantParts extends Partial<Dependencies> {
  key?: Partial<KeyRecord>;
}

/** A new tenant with one key, and an app that sends the key. The backend writes b's. */
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
  test("that is expired or revoked is refused, and says so", async () => {
    let nowMs = Date.parse("2026-11-10T00:00:00Z");
    const key = { expiresAt: "2026-11-10T00:00:10.000Z" };
    const { request, revoke } = await tenantWith({}, { key, now: () => nowMs });
    expect((await request("/v1/models")).status).toBe(200);
    nowMs += 10_000;
    await expectError(request("/v1/models"), { status: 401, code: "invalid_api_key", mentions: key.expiresAt });
    await revoke();
    nowMs += 1000;
    await expectError(request("/v1/models"), { mentions: "revoked" });
  });

  test("that shares only the first characters with a stored one is unknown", async () => {
    const { request, put } = await tenantWith();
    await put({ hash: "0".repeat(64) });
    await expectError(request("/v1/models"), { status: 401 });
  });

  test("without the scope of a route: 403 that names it", async () => {
    const { complete, request } = await tenantWith({}, { key: { scopes: ["usage"] } });
    const expected = { status: 403, type: "permission_error", code: "insufficient_permissions" };
    await expectError(complete({ prompt: "aaa" }), { ...expected, mentions: "completions" });
    expect((await request("/v1/usage")).status).toBe(200);
    expect((await request("/v1/models")).status).toBe(200);
  });
});

test("a caller's trace is continued with a valid key only; without one it has no effect", async () => {
  const traceId = "a".repeat(32);
  const traceparent = `00-${traceId}-${"b".repeat(16)}-01`;
  // The highest possible trace id is in no sampled share.
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
    const { tenant, seen, complete, settled, stateOf, usage } = await tenantWith({
      limits: { requestsPerMinute: 120 },
    });
    const startedMs = Date.now();
    const asked = Array.from({ length: 500 }, () => complete({ prompt: "aaa", max_tokens: 2 }));
    const responses = await Promise.all(asked);
    const passed = responses.filter(({ status }) => status === 200);
    const refused = responses.filter(({ status }) => status === 429);
    expect([passed.length, refused.length]).toEqual([120, 380]);
    expect(seen.batches[0].sequences[0].tenant).toBe(tenant);
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

  test("of requests at once: free again when the stream fails or loses its reader", async () => {
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
    // The charge covers the prompt, and the tokens until the client left.
    const [used] = await usage();
    expect(used).toMatchObject({ requests: 1, promptTokens: 3 });
    expect(used.completionTokens).toBeGreaterThan(0);
    expect(used.completionTokens).toBeLessThanOrEqual(3);

    const broken = await stream();
    // The backend refuses the repeated call.
    isFailing = true;
    bodies[1].end("fail");
    expect(await broken.text()).toContain("backend_unavailable");
    await isFree();
    expect(await usage()).toMatchObject([{ requests: 1 }]);
  });

  test("of requests at once: free again if the caller leaves before its request is sent anywhere", async () => {
    const { complete, usage, stateOf } = await tenantWith({ limits: { concurrentRequests: 1 } });
    expect((await complete(one, { signal: AbortSignal.abort() })).status).toBe(499);
    await vi.waitFor(async () => expect((await stateOf()).open).toEqual([]), { timeout: 5000 });
    expect(await usage()).toEqual([]);
  });

  test.each([limits.bodyBytes, null])("of requests at once: refuse a body of %s bytes unread", async (length) => {
    const { request, ledger } = await tenantWith({ limits: { concurrentRequests: 1 } });
    await ledger.admit("running", { ...plans.unlimited, concurrentRequests: 1 });
    const read = unreadBody();
    const headers = new Headers({ "content-type": "application/json" });
    if (length !== null) headers.set("content-length", String(length));
    const response = await request("/v1/completions", { method: "POST", body: read.body, headers });
    expect([response.status, response.headers.get("retry-after"), read.times]).toEqual([429, "1", 0]);
  });

  test("count a large body once, and its tokens", async () => {
    const some = { requestsPerMinute: 9, tokensPerMinute: 10 };
    const { post, settled, stateOf } = await tenantWith({ limits: some });
    const ask = async (max_tokens: number) => {
      const body = JSON.stringify({ prompt: "aaa", max_tokens }) + " ".repeat(100_000);
      const response = await post("/v1/completions", body);
      await response.text();
      await settled();
      const state = await stateOf();
      return [response.status, requestsIn(state), state.open];
    };
    expect(await ask(2)).toEqual([200, 1, []]);
    expect(await ask(9)).toEqual([429, 2, []]);
  });

  test("are still known when the ledger's object was evicted", async () => {
    const some = { requestsPerMinute: 2, concurrentRequests: 9 };
    const { complete, settled, ledger, stateOf } = await tenantWith({ limits: some });
    await (await complete(one)).text();
    await settled();
    await ledger.admit("running", { ...plans.unlimited, requestsPerMinute: 2 });
    await ledger.reserve("running", 7, { ...plans.unlimited, requestsPerMinute: 2 });
    // This settlement is written after all earlier changes.
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
  /** POSTs that a key may send and that are refused for their content: title, path, body, status, content type. */
  const refused: [string, string, BodyInit, number, string?][] = [
    ["a prompt over the context", "/v1/completions", JSON.stringify({ prompt: "the ".repeat(2e5) }), 400],
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
    // The ledger would admit all requests now, so refusals show that the ledger is not asked.
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
});

describe("usage", () => {
  test("is reported by day, model and centroid, to its own tenant alone", async () => {
    const { request, complete, tenant } = await tenantWith();
    const other = await tenantWith();
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
    const others = await jsonOf(other.request("/v1/usage"));
    expect(others).toMatchObject({ tenant: other.tenant, data: [], total: { requests: 0 } });
    expect(await told("?from=2025-01-01&to=2025-12-31")).toMatchObject({ data: [] });
  });

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
