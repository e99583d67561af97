/** Requests that the edge refuses before any work, and the security headers of every response. */
import { env } from "cloudflare:workers";
import { describe, expect, test, vi } from "vitest";
import { readChunks } from "../../edge/api/body.ts";
import { BodyReads } from "../../edge/tenants/body-reads.ts";
import { createKeyStore } from "../../edge/tenants/keys.ts";
import { createRecords } from "../../edge/tenants/records.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { keyPrefix } from "../../shared/contracts/tenants.ts";
import { keyEntry } from "../support/key-records.ts";
import { expectError } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { accessWith, testApp, unreadBody } from "./harness.ts";

const requestOf = (body: BodyInit) =>
  new Request("http://edge/", { method: "POST", headers: { "content-type": "application/json" }, body });

describe("every response tells browsers", () => {
  const strict = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
  };
  const page = "<style>a{}</style><script type=module>1</script><script>2\n</script>";
  const preflight = { origin: "https://a.example", "access-control-request-method": "POST" };
  const ask: Record<string, (app: ReturnType<typeof testApp>) => Response | Promise<Response>> = {
    "a completion": ({ complete }) => complete({ prompt: "aaa", max_tokens: 1 }),
    "a stream": ({ complete }) => complete({ prompt: "aaa", max_tokens: 1, stream: true }),
    "a list": ({ request }) => request("/v1/models"),
    health: ({ request }) => request("/healthz"),
    "a bad request": ({ complete }) => complete({ prompt: 1 }),
    "no key": ({ app }) => app.request("http://edge/v1/models"),
    "no route": ({ request }) => request("/v1/nothing"),
    "another method": ({ request }) => request("/v1/models", { method: "PUT" }),
    "a preflight": ({ app }) => app.request("http://edge/v1/completions", { method: "OPTIONS", headers: preflight }),
    "our failure": ({ request }) => request("/readyz"),
    "the page": ({ app }) => app.request("http://edge/"),
    "the document's page": ({ app }) => app.request("http://edge/docs/api"),
  };

  test.each(Object.keys(ask))("that nothing is to be embedded, guessed at, kept or referred to: %s", async (name) => {
    backendAnswers(({ id }) => saying(id, "b"));
    const { headers } = await ask[name](testApp({ asset: async () => new Response(page), readiness: async () => [] }));
    expect(Object.fromEntries(headers)).toMatchObject(strict);
    expect(headers.get("cache-control")).toBe("no-store");
    expect(headers.get("x-request-id")).toMatch(/^req_/);
    expect(headers.get("strict-transport-security")).toBeNull();
    const policy = headers.get("content-security-policy");
    expect(policy).toMatch(/default-src 'none'.*frame-ancestors 'none'/);
    // Swagger UI writes style attributes.
    const attributes = name === "the document's page" ? "; style-src-attr 'unsafe-inline'" : "";
    expect(policy).toContain(attributes);
    expect(policy?.replace(attributes, "")).not.toContain("unsafe");
    if (!name.endsWith("page")) expect(policy).not.toContain("script-src");
  });

  test("to use https alone, if they asked by https", async () => {
    const { headers } = await testApp().app.request("https://edge/healthz");
    expect(headers.get("strict-transport-security")).toMatch(/^max-age=\d{8}$/);
  });

  test("the hashes of the page's scripts and styles, also if they have the page in their cache", async () => {
    const asked: string[] = [];
    const { app } = testApp({
      async asset(path) {
        asked.push(path);
        return new Response(page);
      },
    });
    const response = await app.request("http://edge/", { headers: { "if-none-match": "*", cookie: "a=b" } });
    const hash = async (text: string) => {
      const hex = await sha256Hex(new TextEncoder().encode(text));
      return btoa(hex.replace(/../g, (digits) => String.fromCharCode(Number.parseInt(digits, 16))));
    };
    const policy = response.headers.get("content-security-policy");
    expect(policy).toContain(`; script-src 'sha256-${await hash("1")}' 'sha256-${await hash("2\n")}';`);
    expect(policy).toContain(`; style-src 'sha256-${await hash("a{}")}';`);
    expect(await response.text()).toBe(page);
    expect(asked).toEqual(["/index.html"]);
  });
});

describe("refused before any work", () => {
  test("an over-long URL: 414, and over-long headers: 431, by limit and value", async () => {
    const { app } = testApp({ keys: { accessOf: () => Promise.reject(new Error("not to be asked")) } });
    const url = `http://edge/v1/models/${"a".repeat(limits.urlCharacters)}`;
    const tooLong = `${url.length} characters, the maximum is ${limits.urlCharacters}`;
    await expectError(app.request(url), { status: 414, code: "url_too_long", mentions: tooLong });
    const headers = { authorization: `Bearer ${"k".repeat(limits.headerCharacters)}` };
    const tooLarge = { code: "headers_too_large", mentions: `the maximum is ${limits.headerCharacters}` };
    await expectError(app.request("http://edge/v1/models", { headers }), { status: 431, ...tooLarge });
  });
});

test("a body in very many chunks is refused by limit and value, and the rest is not read", async () => {
  let pulled = 0;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      pulled++;
      if (pulled <= 4 * limits.bodyChunks) controller.enqueue(new Uint8Array([32]));
      else controller.close();
    },
  });
  const counts = `at least ${limits.bodyChunks + 1} chunks, the maximum is ${limits.bodyChunks}`;
  const message = expect.stringContaining(counts);
  const reading = readChunks(requestOf(body), null, limits.bodyMs);
  await expect(reading).rejects.toMatchObject({ kind: "invalid_request", message });
  expect(pulled).toBeLessThan(limits.bodyChunks + 10);
});

test("a body of the runtime's own stream that trickles in is refused in time, and lets go of its sender", async () => {
  const { readable, writable } = new IdentityTransformStream();
  const writer = writable.getWriter();
  const reading = readChunks(requestOf(readable), null, 20);
  await Promise.all([
    expect(reading).rejects.toMatchObject({ kind: "body_too_slow", message: expect.stringContaining("6 bytes") }),
    writer.write(new TextEncoder().encode('{"a": ')),
  ]);
  await expect(writer.write(new Uint8Array(1))).rejects.toThrow();
});

describe("bodies of one key at once", () => {
  /** The body arrives when `send` is called. */
  function slow(app: ReturnType<typeof testApp>, declared: number | null, key = "one", content = '{"input":"a"}') {
    const sent = Promise.withResolvers<void>();
    let pulled = 0;
    const body = new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          pulled++;
          await sent.promise;
          controller.enqueue(new TextEncoder().encode(content.padEnd(declared ?? 0)));
          controller.close();
        },
      },
      { highWaterMark: 0 },
    );
    const headers = new Headers({ authorization: `Bearer ${key}`, "content-type": "application/json" });
    if (declared !== null) headers.set("content-length", String(declared));
    const response = app.request("/v1/assign", { method: "POST", body, headers });
    return { response, send: () => sent.resolve(), pulled: () => pulled };
  }
  const keys = { accessOf: async (keyId: string) => accessWith({ keyId }) };

  test("are bounded: one beyond is refused unread, by limit and value, until another is done", async () => {
    const app = testApp({ keys, bodyReads: new BodyReads(100_000) });
    const first = [slow(app, 50_000), slow(app, 40_000)];
    for (const { pulled } of first) await vi.waitFor(() => expect(pulled()).toBe(1));
    const beyond = slow(app, 10_001);
    await expectError(beyond.response, {
      ...{ status: 429, code: "rate_limit_exceeded", retryAfter: "1", mentions: ["90000", "10001", "100000"] },
    });
    expect(beyond.pulled()).toBe(0);
    // Bytes of another key count apart, and a small body still fits.
    const others = [slow(app, 90_000, "two"), slow(app, 9000)];
    for (const { send } of [...first, ...others]) send();
    for (const { response } of [...first, ...others]) expect((await response).status).toBe(200);
    const next = slow(app, 100_000);
    next.send();
    expect((await next.response).status).toBe(200);
  });

  test("count in full where they declare no length, and are free again however they end", async () => {
    const app = testApp({ keys, bodyReads: new BodyReads(limits.bodyBytes) });
    const first = slow(app, null);
    await vi.waitFor(() => expect(first.pulled()).toBe(1));
    expect((await slow(app, 100).response).status).toBe(429);
    first.send();
    expect((await first.response).status).toBe(200);
    const broken = slow(app, 13, "one", "{");
    broken.send();
    expect((await broken.response).status).toBe(400);
    const last = slow(app, null);
    last.send();
    expect((await last.response).status).toBe(200);
  });
});

const json = { "content-type": "application/json" };
const decidedByHeaders: [string, number, string, RequestInit][] = [
  ["another content type", 415, "/v1/completions", { headers: { "content-type": "text/plain" } }],
  ["a declared length", 413, "/v1/completions", { headers: { ...json, "content-length": "2000000" } }],
  ["a method", 405, "/v1/completions", { method: "PUT", headers: json }],
  ["a path", 404, "/v1/nothing", { headers: json }],
  ["a foreign page", 403, "/v1/completions", { headers: { ...json, origin: "https://evil.example" } }],
  ["no key", 401, "/v1/completions", { headers: { ...json, authorization: "Bearer sk-wrong" } }],
];
test.each(decidedByHeaders)("what headers decide reads no body: %s", async (_, status, path, init) => {
  const read = unreadBody();
  const response = await testApp().request(path, { method: "POST", body: read.body, ...init });
  expect([response.status, read.times]).toEqual([status, 0]);
});

describe("keys that open nothing", () => {
  const attempts = 30;
  /** Each lookup reads three entries: the key's record, its end and its revocation. */
  const readsOfGuesses = 3 * attempts;

  async function store(others = 0) {
    const clock = { nowMs: 0 };
    const read: string[] = [];
    let listings = 0;
    const key = `sk-${crypto.randomUUID()}`;
    const entry = await keyEntry(key, "guessed-at");
    await env.TENANTS.put(...entry);
    const names = [entry[0], ...Array.from({ length: others }, (_, i) => `${keyPrefix}${i}`)];
    const namespace: Parameters<typeof createRecords>[0] = {
      get(name) {
        read.push(name);
        return env.TENANTS.get<unknown>(name, "json");
      },
      async list({ prefix, cursor }) {
        listings++;
        expect(prefix).toBe(keyPrefix);
        const from = Number(cursor ?? 0);
        const keys = names.slice(from, from + 1000).map((name) => ({ name }));
        const isLast = from + 1000 >= names.length;
        return isLast ? { keys, list_complete: true } : { keys, list_complete: false, cursor: `${from + 1000}` };
      },
    };
    const now = () => clock.nowMs;
    const keys = createKeyStore(
      [],
      createRecords(namespace, now, () => undefined),
      now,
    );
    const kindOf = (key: string, address: string) =>
      keys.accessOf(key, address).then(
        () => "open",
        ({ kind }) => kind as string,
      );
    return { clock, read, listings: () => listings, key, kindOf, keys };
  }

  test("are looked up so many times a minute from one address, and then no more", async () => {
    const { clock, read, kindOf, keys } = await store();
    for (let i = 0; i < attempts; i++) expect(await kindOf(`guess-${i}`, "192.0.2.1")).toBe("unauthorized");
    expect(read).toHaveLength(readsOfGuesses);
    clock.nowMs = 20_000;
    await expect(keys.accessOf("guess", "192.0.2.1")).rejects.toMatchObject({
      ...{ kind: "rate_limited", retryAfterSeconds: 60 },
    });
    expect(read).toHaveLength(readsOfGuesses);
    // Another address may still try. After a minute, the first address may, too.
    expect(await kindOf("guess", "192.0.2.2")).toBe("unauthorized");
    clock.nowMs = 60_000;
    expect(await kindOf("another", "192.0.2.1")).toBe("unauthorized");
  });

  test("do not shut out a valid key from the same address that was in use before", async () => {
    const { clock, key, kindOf } = await store();
    expect(await kindOf(key, "192.0.2.1")).toBe("open");
    for (let i = 0; i < 2 * attempts; i++) await kindOf(`guess-${i}`, "192.0.2.1");
    clock.nowMs = 30_000;
    expect(await kindOf("guess", "192.0.2.1")).toBe("rate_limited");
    expect(await kindOf(key, "192.0.2.1")).toBe("open");
  });

  test("do not shut out a valid key from the same address that is used for the first time, nor make it cost more reads", async () => {
    const { clock, read, listings, key, kindOf } = await store();
    for (let i = 0; i < 2 * attempts; i++) await kindOf(`guess-${i}`, "192.0.2.1");
    expect(await kindOf(key, "192.0.2.1")).toBe("open");
    const readForGood = 3;
    for (let i = 0; i < 300; i++) {
      clock.nowMs += 100;
      expect(await kindOf(`more-${i}`, "192.0.2.1")).toBe("rate_limited");
    }
    expect(read).toHaveLength(readsOfGuesses + readForGood);
    expect(listings()).toBeLessThanOrEqual(4);
  });

  test("do not push valid keys out of memory", async () => {
    const { clock, read, key, kindOf } = await store();
    expect(await kindOf(key, "192.0.2.1")).toBe("open");
    for (let i = 0; i < 1100; i++) await kindOf(`guess-${i}`, `192.0.${i >> 8}.${i & 255}`);
    const before = read.length;
    clock.nowMs = 500;
    expect(await kindOf(key, "192.0.2.1")).toBe("open");
    expect(read).toHaveLength(before);
  });

  test("are refused without a read where there are more keys than are listed", async () => {
    const { read, key, kindOf } = await store(60_000);
    for (let i = 0; i < attempts; i++) await kindOf(`guess-${i}`, "192.0.2.1");
    expect(await kindOf("guess", "192.0.2.1")).toBe("rate_limited");
    expect(read).toHaveLength(readsOfGuesses);
    expect(await kindOf(key, "192.0.2.1")).toBe("open");
  });

  test("count for a whole IPv6 network", async () => {
    const { kindOf } = await store();
    for (let i = 0; i < attempts; i++) await kindOf(`guess-${i}`, `2001:db8:1:2:${i}::1`);
    expect(await kindOf("guess", "2001:db8:1:2:ffff::9")).toBe("rate_limited");
    expect(await kindOf("guess", "2001:db8:1:3::1")).toBe("unauthorized");
  });
});
