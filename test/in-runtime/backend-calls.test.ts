/** What the edge sends to a backend, and which parts of a client's request it never sends. */
import { env } from "cloudflare:workers";
import { describe, expect, test } from "vitest";
import { sha256Hex } from "../../shared/bytes.ts";
import { isSignedBy, parseSignature, signingKey } from "../../shared/contracts/call-signature.ts";
import { expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, LateBody, saying } from "./backend.ts";
import { testApp } from "./harness.ts";

test("every call is signed, over the bytes that are sent", async () => {
  const seen = backendAnswers(({ id }) => saying(id, "b"));
  const { complete } = testApp();
  const beforeMs = Date.now();
  for (const prompt of ["aaa", "bbb"]) expect((await complete({ prompt, max_tokens: 1 })).status).toBe(200);
  const [secret] = (env as Env & { BACKEND_SECRETS: string }).BACKEND_SECRETS.split(",");
  const key = await signingKey(secret);
  for (const [i, headers] of seen.headers.entries()) {
    const call = parseSignature(headers.get("authorization") ?? "", "POST", "/v1/batches");
    expect(call).toMatchObject({ keyId: key.id, bodySha256: await sha256Hex(seen.bytes[i]) });
    expect(await isSignedBy(key, call!)).toBe(true);
    expect([beforeMs <= call!.timeMs, call!.timeMs <= Date.now()]).toEqual([true, true]);
  }
});

describe("a caller's deadline", () => {
  test("is sent with each of its choices, as the milliseconds that are left", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    const headers = { "x-deadline-ms": "600000" };
    const { complete } = testApp();
    expect((await complete({ prompt: ["aaa", "aa"], max_tokens: 1, n: 2 }, { headers })).status).toBe(200);
    const deadlines = seen.batches.flatMap(({ sequences }) => sequences.map(({ deadlineMs }) => deadlineMs ?? 0));
    expect(deadlines).toHaveLength(4);
    for (const deadlineMs of deadlines) {
      expect(deadlineMs).toBeGreaterThan(0);
      expect(deadlineMs).toBeLessThanOrEqual(600_000);
    }
  });

  test.each(["0", "-1", "1.5", "soon", "600001", ""])("of %j is refused by the limit", async (deadline) => {
    const refused = testApp().complete({ prompt: "aaa" }, { headers: { "x-deadline-ms": deadline } });
    await expectError(refused, { status: 400, param: "x-deadline-ms" });
  });
});

test("a caller's deadline that passes after the first heartbeat ends the stream in an error event", async () => {
  const body = new LateBody();
  backendStreams((_, signal) => body.open(signal));
  const { complete } = testApp({ heartbeatMs: 5 });
  const headers = { "x-deadline-ms": "200" };
  const response = await complete({ prompt: "aaa", max_tokens: 9, stream: true }, { headers });
  expect(response.status).toBe(200);
  // The backend sends nothing. The request's deadline ends the stream before the edge stops waiting for the backend.
  const text = await response.text();
  expect(text).toContain(": hb");
  expect(text).toContain('"code":"deadline_exceeded"');
  expect(text.trim().endsWith("data: [DONE]")).toBe(true);
  expect(text).toContain("The deadline was 200 ms");
});

describe("nothing that a client sends reaches a backend", () => {
  const body = { prompt: "aaa", max_tokens: 1, seed: 1 };
  /** Returns the batch that the request becomes, and the headers of its call. */
  async function sentFor(headers: Record<string, string>, extra: object = {}) {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    const app = testApp({ newId: () => "0".repeat(32) });
    await jsonOf(app.complete({ ...body, ...extra }, { headers }));
    expect(seen.batches).toHaveLength(1);
    return { batch: seen.batches[0], headers: Object.fromEntries(seen.headers[0]) };
  }
  const names = ["authorization", "content-type"];

  test.each([
    ...["tenant", "centroid", "manifest", "adapter", "backend", "key-id", "signature"].map(
      (name) => `x-chameleon-${name}`,
    ),
    ...["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "cf-connecting-ip"],
    ...["x-request-id", "traceparent", "tracestate", "baggage", "cookie", "via", "x-http-method-override", "te"],
    ...["x-original-url", "x-rewrite-url", "cf-worker", "proxy-authorization", "idempotency-key", "user-agent"],
  ])("as the header %s", async (name) => {
    const value = name === "traceparent" ? `00-${"a".repeat(32)}-${"b".repeat(16)}-01` : "smuggled";
    const sent = await sentFor({ [name]: value });
    expect(Object.keys(sent.headers).sort()).toEqual(names);
    expect(JSON.stringify(sent)).not.toContain(value);
    expect(sent.batch).toEqual((await sentFor({})).batch);
  });

  test.each([
    ...["tenant", "centroidId", "manifestHash", "adapterHash", "sequences", "version", "id", "traceparent"],
    ...["continuedIds", "promptIds", "deadlineMs", "sampling", "__proto__", "constructor"],
  ])("as the field %s", async (name) => {
    for (const value of ["smuggled", ["smuggled"], { tenant: "smuggled" }]) {
      const field = JSON.parse(`{${JSON.stringify(name)}: ${JSON.stringify(value)}}`);
      const { batch } = await sentFor({}, field);
      expect(batch).toEqual((await sentFor({})).batch);
    }
  });

  test.each([
    "http://evil.example/x",
    "//evil.example",
    "../../v1/adapters/other/x",
    "c0/../c1",
    "c0%2f",
    "C0\r\nx: y",
  ])("as a URL or a path in place of a name: %j", async (name) => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    const { complete, request } = testApp();
    const { status } = await complete({ ...body, model: `gpt2:${name}` });
    expect(status).toBe(404);
    expect((await complete({ ...body, chameleon: { adapter: name } })).status).toBe(400);
    expect((await request(`/v1/models/${encodeURIComponent(name)}`)).status).toBe(404);
    expect((await request(`/v1/adapters/${encodeURIComponent(name)}`, { method: "DELETE" })).status).toBe(404);
    expect(seen.batches).toEqual([]);
  });
});
