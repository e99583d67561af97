/** The admin API: who may call it, and each of its routes, with real KV. */
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, test } from "vitest";
import { ArtifactBucket } from "../../edge/artifacts/artifact-bucket.ts";
import type { PublishBucket } from "../../edge/artifacts/publish.ts";
import { readConfig } from "../../edge/config.ts";
import { createKeyStore } from "../../edge/tenants/keys.ts";
import { operations } from "../../infra/openapi/operations.ts";
import { objectName, pointerName } from "../../shared/artifacts/bucket.ts";
import { edgeTableFile, hyperNetworkFile, manifestFile, tokenizerFile } from "../../shared/artifacts/manifest.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { Key, NewKey } from "../../shared/contracts/admin.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { keyPrefix } from "../../shared/contracts/tenants.ts";
import { edgeModelFiles } from "../support/edge-model.ts";
import { errorOf, expectError, jsonOf } from "./answers.ts";
import { adminKey, recordedTracing, key as tenantKey, testApp } from "./harness.ts";

let tenants = 0;
const newTenant = () => `admin-${++tenants}`;
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });
const routes = operations.filter(({ scope }) => scope === "admin");
const urlOf = (path: string) =>
  path.replace("{id}", "0123456789abcdef").replace("{tenant}", "acme").replace("{sha256}", "0".repeat(64));
const made = async (body: object): Promise<NewKey> => (await testApp().post("/admin/v1/keys", body)).json();
/** Status of `/v1/usage`, in an isolate that has cached nothing. */
const statusOf = async (key: string) => (await testApp().request("/v1/usage", { headers: bearer(key) })).status;

describe("nobody but the admin key comes in", () => {
  const others: [string, Record<string, string>][] = [
    ["no key", { authorization: "" }],
    ["another scheme", { authorization: `Basic ${btoa(`admin:${adminKey}`)}` }],
    ["a tenant's key", bearer(tenantKey)],
    ["the admin key's beginning", bearer(adminKey.slice(0, -1))],
    ["more than the admin key", bearer(`${adminKey}0`)],
    ["its hash", bearer("0".repeat(64))],
    ["an empty key", bearer("")],
  ];
  test.each(others)("%s: 401 on every route, before its method or body is looked at", async (_, headers) => {
    const { request } = testApp();
    for (const { method, path } of routes) {
      const response = await request(urlOf(path), { method: method.toUpperCase(), headers, body: undefined });
      expect([path, await errorOf(response)]).toMatchObject([path, { status: 401, code: "invalid_api_key" }]);
    }
    const others = ["/admin", "/admin/", "/admin/v1", "/admin/v2/keys", "/admin/v1/keys/../keys", "/admin//v1/keys"];
    for (const path of others) expect([path, (await request(path, { headers })).status]).toEqual([path, 401]);
  });

  test("a key with every scope of a tenant named admin is a tenant's", async () => {
    const { key } = await made({ tenant: "admin" });
    expect(await statusOf(key)).toBe(200);
    const response = testApp().request("/admin/v1/keys", { headers: bearer(key) });
    await expectError(response, { status: 401, message: "The key is not the admin key." });
  });

  test("the admin key opens nothing else, even where it is listed among tenants' keys", async () => {
    const hash = await sha256Hex(new TextEncoder().encode(adminKey));
    const store = createKeyStore([{ hash, tenant: "local" }], {} as never, Date.now, undefined, {}, adminKey);
    await expect(store.accessOf(adminKey, "")).rejects.toMatchObject({ kind: "unauthorized" });
    for (const path of ["/v1/models", "/v1/usage", "/v1/tenant"]) {
      const response = testApp().request(path, { headers: bearer(adminKey) });
      await expectError(response, { status: 401, message: "The admin key opens /admin alone." });
    }
  });

  test("a deployment without an admin key says so, and takes none", async () => {
    const { requireAdmin } = createKeyStore([], {} as never, Date.now);
    for (const key of ["", "null", "undefined", adminKey]) {
      const response = testApp({ requireAdmin }).request("/admin/v1/keys", { headers: bearer(key || "x") });
      await expectError(response, { status: 401, mentions: "ADMIN_KEY" });
    }
  });

  test("an admin key that can be guessed is refused by the configuration, and not repeated", () => {
    const variables = { BACKEND_URLS: "http://127.0.0.1:1", TENANT_KEYS: "[]", CELLS_PER_REGION: "1" };
    expect(readConfig({ ...variables, ADMIN_KEY: adminKey }).adminKey).toBe(adminKey);
    expect(readConfig({ ...variables, ADMIN_KEY: "" }).adminKey).toBeNull();
    for (const ADMIN_KEY of ["hunter2", ` ${adminKey}`, "a b".repeat(20), "x".repeat(513)]) {
      const read = () => readConfig({ ...variables, ADMIN_KEY });
      expect(read).toThrow(`ADMIN_KEY has ${ADMIN_KEY.length} characters; it must have 32 to 512`);
      expect(read).not.toThrow(ADMIN_KEY);
    }
  });

  test("wrong keys count with unknown API keys of their network, and the right key still works", async () => {
    const { app, request } = testApp();
    const address = { "cf-connecting-ip": "192.0.2.7" };
    const guess = async (path: string, n: number) => {
      const headers = { ...bearer(`guess-${n}`), ...address };
      return (await app.request(`http://edge${path}`, { headers })).status;
    };
    const half = limits.keyLookupsPerMinute / 2;
    for (let i = 0; i < half; i++) expect(await guess("/v1/models", i)).toBe(401);
    for (let i = 0; i < half; i++) expect(await guess("/admin/v1/keys", i)).toBe(401);
    expect(await guess("/admin/v1/keys", -1)).toBe(429);
    expect(await guess("/v1/models", -2)).toBe(429);
    expect((await request("/admin/v1/keys?tenant=none", { headers: address })).status).toBe(200);
  });

  test("no browser: neither a page's request nor its preflight, whatever key or origin", async () => {
    const { request } = testApp();
    const tenant = newTenant();
    await testApp().post(`/admin/v1/tenants/${tenant}`, { origins: ["https://app.example"] });
    const { key } = await made({ tenant });
    const pages: Record<string, string>[] = [
      ...["https://app.example", "http://edge", "null"].map((origin) => ({ origin })),
      ...["same-origin", "none"].map((site) => ({ "sec-fetch-site": site })),
    ];
    for (const headers of pages) {
      for (const authorization of [bearer(adminKey), bearer(key)]) {
        for (const method of ["GET", "POST", "OPTIONS"]) {
          const asked = { ...headers, ...authorization, "access-control-request-method": "POST" };
          const response = await request("/admin/v1/keys", { method, headers: asked });
          expect([method, headers, response.status]).toEqual([method, headers, 403]);
          const allowed = [...response.headers.keys()].filter((name) => name.startsWith("access-control-"));
          expect(allowed).toEqual([]);
        }
      }
    }
  });

  test("neither log lines nor spans hold the admin key, or a key that was made", async () => {
    const { lines, spans, tracing } = recordedTracing(1);
    const { post, request, logged } = testApp({ tracing });
    const { key } = await (await post("/admin/v1/keys", { tenant: newTenant() })).json<NewKey>();
    await request("/admin/v1/keys", { headers: bearer(`${adminKey}x`) });
    expect([lines.length, spans.length]).toEqual([2, 2]);
    const text = JSON.stringify([lines, spans, logged]);
    for (const secret of [adminKey, key]) expect(text).not.toContain(secret);
  });
});

describe("keys", () => {
  test("are made, used, listed, rotated and revoked", async () => {
    const { request, post } = testApp();
    const tenant = newTenant();
    const { key, ...shown } = await made({ tenant, scopes: ["usage"], expires_at: "2126-01-01T01:00:00+01:00" });
    expect(shown).toEqual({
      ...{ object: "key", tenant, scopes: ["usage"], state: "expires", revoked_at: null },
      ...{ id: expect.stringMatching(/^[0-9a-f]{16}$/), created_at: expect.any(String) },
      expires_at: "2126-01-01T00:00:00.000Z",
    });
    expect(await statusOf(key)).toBe(200);
    expect((await testApp().post("/v1/embeddings", { input: "a" }, { headers: bearer(key) })).status).toBe(403);
    const list = async (query = "") => (await jsonOf<{ data: Key[] }>(request(`/admin/v1/keys${query}`))).data;
    expect(await list(`?tenant=${tenant}`)).toEqual([shown]);
    expect(await list()).toContainEqual(shown);

    const rotate = () => post(`/admin/v1/keys/${shown.id}/rotate`, { old_expires_at: "2125-01-01T00:00:00Z" });
    const next = await jsonOf<NewKey>(rotate());
    expect(next).toMatchObject({ tenant, scopes: ["usage"], state: "active", replaces: { id: shown.id } });
    expect(next.replaces?.expires_at).toBe("2125-01-01T00:00:00.000Z");
    expect([await statusOf(key), await statusOf(next.key)]).toEqual([200, 200]);

    const revoked = await request(`/admin/v1/keys/${shown.id}`, { method: "DELETE" });
    expect(await revoked.json()).toMatchObject({ id: shown.id, state: "revoked" });
    expect([await statusOf(key), await statusOf(next.key)]).toEqual([401, 200]);
    await expectError(rotate(), { status: 400, mentions: "is revoked" });
    expect((await env.TENANTS.list({ prefix: keyPrefix + shown.id })).keys[0].metadata).toEqual({ tenant });
  });

  test.each<[string, object, string]>([
    ["no tenant", {}, "tenant"],
    ["a tenant named as a path", { tenant: "../x" }, "tenant"],
    ["an unknown scope", { tenant: "a", scopes: ["admin"] }, "scopes[0]"],
    ["a scope that no key has", { tenant: "a", scopes: ["erase"] }, "scopes[0]"],
    ["scopes without end", { tenant: "a", scopes: Array(5).fill("usage") }, "scopes"],
    ["a date that is none", { tenant: "a", expires_at: "tomorrow" }, "expires_at"],
    ["a field with a typo", { tenant: "a", scope: ["usage"] }, "scope"],
  ])("with %s are not made", async (_, body, param) => {
    const before = await env.TENANTS.list();
    await expectError(testApp().post("/admin/v1/keys", body), { status: 400, param });
    expect((await env.TENANTS.list()).keys).toHaveLength(before.keys.length);
  });

  test.each(["0000000000000000", "key:x", "%2e%2e%2fx", "x".repeat(3000)])("that are not there: %s", async (id) => {
    const { request, post } = testApp();
    const body = { old_expires_at: "2125-01-01T00:00:00Z" };
    for (const response of [
      await request(`/admin/v1/keys/${id}`, { method: "DELETE" }),
      await post(`/admin/v1/keys/${id}/rotate`, body),
    ]) {
      await expectError(response, { status: 404, mentions: /^There is no key/ });
    }
  });
});

describe("tenants", () => {
  test("have a plan, limits, origins and aliases, which change one by one and reach their keys", async () => {
    const { request, post } = testApp();
    const tenant = newTenant();
    const path = `/admin/v1/tenants/${tenant}`;
    const standard = { requests_per_minute: 600, tokens_per_minute: 250_000, concurrent_requests: 64 };
    expect(await jsonOf(request(path))).toEqual({
      ...{ object: "tenant", tenant, plan: "standard", origins: [], aliases: {} },
      limits: { ...standard, tokens_per_month: 50_000_000, memory_tokens: limits.tenantMemoryTokens },
    });
    const { key } = await made({ tenant });
    const used = () => testApp().request("/v1/usage", { headers: { ...bearer(key), origin: "https://a.example" } });
    await expectError(used(), { mentions: `\`chameleon keys limits ${tenant} --origin ORIGIN …\`` });
    await post(path, { limits: { requests_per_minute: 7, tokens_per_month: null }, origins: ["https://a.example"] });
    const changed = await jsonOf(post(path, { limits: { memory_tokens: 5 }, aliases: { "gpt-4o": "gpt2" } }));
    expect(changed).toMatchObject({
      limits: { requests_per_minute: 7, tokens_per_month: null, memory_tokens: 5, concurrent_requests: 64 },
      ...{ origins: ["https://a.example"], aliases: { "gpt-4o": "gpt2" } },
    });
    expect(await jsonOf(request(path))).toEqual(changed);
    const response = await used();
    expect(response.headers.get("access-control-allow-origin")).toBe("https://a.example");
    expect(await response.json()).toMatchObject({ limits: { requests_per_minute: 7 } });
    const back = { plan: "unlimited", limits: { requests_per_minute: "plan" }, origins: [], aliases: {} };
    expect(await jsonOf(post(path, back))).toMatchObject({
      ...{ plan: "unlimited", origins: [], aliases: {} },
      limits: { requests_per_minute: null, tokens_per_minute: null, memory_tokens: 5 },
    });
  });

  test.each<[string, object, string]>([
    ["a limit of words", { limits: { requests_per_minute: "many" } }, "limits.requests_per_minute"],
    ["a limit below zero", { limits: { tokens_per_minute: -1 } }, "limits.tokens_per_minute"],
    ["a limit with a typo", { limits: { request_per_minute: 1 } }, "limits.request_per_minute"],
    ["another plan", { plan: "gold" }, "plan"],
    ["an origin of any", { origins: ["*"] }, "origins"],
    ["an origin with a path", { origins: ["https://a.example/x"] }, "origins"],
    ["an origin of a script", { origins: ["javascript:alert(1)"] }, "origins"],
    ["too many origins", { origins: Array(limits.origins + 1).fill("https://a.example") }, "origins"],
    ["too many aliases", { aliases: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [i, "m"])) }, "aliases"],
    ["a field with a typo", { alias: {} }, "alias"],
  ])("%s changes nothing", async (_, body, param) => {
    const path = `/admin/v1/tenants/${newTenant()}`;
    await expectError(testApp().post(path, body), { status: 400, param });
    expect(await jsonOf(testApp().request(path))).toMatchObject({ plan: "standard", origins: [], aliases: {} });
  });

  const badNames = ["a b", "..", "%2e%2e", "key:0000000000000000", "xx:acme", "a".repeat(65)];
  test.each(badNames)("of no valid name are not there: %s", async (name) => {
    for (const method of ["GET", "DELETE"]) {
      const { status } = await testApp().request(`/admin/v1/tenants/${encodeURIComponent(name)}`, { method });
      expect([400, 404]).toContain(status);
    }
  });

  test("are erased once their keys are revoked everywhere, and say what is left where", async () => {
    let nowMs = Date.now();
    const { request } = testApp({ now: () => nowMs });
    const tenant = newTenant();
    const { key } = await made({ tenant });
    await testApp().post(`/admin/v1/tenants/${tenant}`, { limits: { requests_per_minute: 7 } });
    const erase = () => request(`/admin/v1/tenants/${tenant}`, { method: "DELETE" });
    const first = await erase();
    expect(first.status).toBe(202);
    expect(await first.json()).toEqual({ object: "tenant.erasing", tenant, retry_after: expect.any(Number) });
    const waitS = Number(first.headers.get("retry-after"));
    expect(waitS).toBeGreaterThan(55);
    expect(await statusOf(key)).toBe(401);
    nowMs += waitS * 1000 + 1000;
    expect(await jsonOf(erase())).toMatchObject({ object: "tenant.erased", tenant, keys: 1, adapters: 0 });
    expect(await jsonOf(request(`/admin/v1/keys?tenant=${tenant}`))).toMatchObject({ data: [] });
    const now = await jsonOf(request(`/admin/v1/tenants/${tenant}`));
    expect(now).toMatchObject({ limits: { requests_per_minute: 600 } });
    expect((await erase()).status).toBe(200);
  });
});

describe("artifacts", () => {
  const bytesOf = (text: string) => new TextEncoder().encode(text) as Uint8Array<ArrayBuffer>;
  const filePath = (hash: string) => `/admin/v1/artifacts/files/${hash}`;
  const upload = (hash: string, body: Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) => {
    const length = { "content-length": String(body.byteLength) };
    return testApp().request(filePath(hash), { method: "PUT", body, headers: { ...length, ...headers } });
  };
  const serve = (manifest: string, more: object = {}) => testApp().post("/admin/v1/artifacts", { manifest, ...more });
  const stored = async () => (await env.ARTIFACTS.list()).objects.map(({ key }) => key);
  beforeEach(async () => {
    for (const name of await stored()) await env.ARTIFACTS.delete(name);
  });

  /** The tiny model's files with a centroid of this label, as pairs of hash and bytes. The manifest is last. */
  async function tinySet(label: string, weights?: string): Promise<[string, Uint8Array<ArrayBuffer>][]> {
    const files = await edgeModelFiles();
    const adapters = bytesOf("adapters");
    const manifest = JSON.parse(new TextDecoder().decode(files.get(manifestFile)));
    manifest.centroids[0].label = [label];
    manifest.files[hyperNetworkFile] = { sha256: await sha256Hex(adapters), bytes: adapters.byteLength, tensors: {} };
    manifest.hyperNetwork.hash = manifest.files[hyperNetworkFile].sha256;
    if (weights) manifest.model.weights = weights;
    const names = [edgeTableFile, tokenizerFile].map((name) => files.get(name)!);
    const all = [...names, adapters, bytesOf(JSON.stringify(manifest))];
    return Promise.all(all.map(async (bytes): Promise<[string, typeof bytes]> => [await sha256Hex(bytes), bytes]));
  }

  test("are uploaded by hash, served, listed, and rolled back", async () => {
    const list = () => jsonOf<{ data: { manifest: string }[] }>(testApp().request("/admin/v1/artifacts"));
    expect(await list()).toEqual({ object: "list", data: [] });
    const manifests: string[] = [];
    for (const label of ["one", "two"]) {
      const files = await tinySet(label);
      const [manifest] = files.at(-1)!;
      for (const [hash, bytes] of files) {
        const file = { object: "artifacts.file", sha256: hash, bytes: bytes.byteLength };
        if (label === "one") expect((await testApp().request(filePath(hash))).status).toBe(404);
        expect(await jsonOf(upload(hash, bytes))).toEqual(file);
        expect(await jsonOf(testApp().request(filePath(hash)))).toEqual(file);
      }
      const told = { object: "artifacts.switch", manifest, before: manifests[0] ?? null, switched: true };
      expect(await jsonOf(serve(manifest))).toEqual(told);
      manifests.unshift(manifest);
    }
    expect((await list()).data.map(({ manifest }) => manifest)).toEqual(manifests);
    const [two, one] = manifests;
    expect(await jsonOf(serve(two))).toMatchObject({ before: two, switched: false });
    expect(await jsonOf(serve("previous"))).toMatchObject({ manifest: one, before: two, switched: true });
    expect(await jsonOf(serve(two.slice(0, 12)))).toMatchObject({ manifest: two, before: one });
    expect((await list()).data).toHaveLength(4);
    const set = await new ArtifactBucket(env.ARTIFACTS).load(two);
    expect(set.manifest.centroids[0].label).toEqual(["two"]);
  });

  test("of other weights, or not whole, are not served", async () => {
    const [files, others] = [await tinySet("one"), await tinySet("one", "f".repeat(64))];
    for (const [hash, bytes] of [...files, ...others]) await upload(hash, bytes);
    await serve(files.at(-1)![0]);
    const other = others.at(-1)![0];
    await expectError(serve(other), { status: 400, param: "other_model" });
    await env.ARTIFACTS.delete(objectName(files[2][0]));
    await expectError(serve(other, { other_model: true }), { status: 400, mentions: /hyper-network.*is not whole/ });
    await upload(...files[2]);
    expect(await (await serve(other, { other_model: true })).json()).toMatchObject({ switched: true });
  });

  test("a switch beside another one is refused with 409, and both may be sent again", async () => {
    const sets = [await tinySet("one"), await tinySet("two"), await tinySet("three")];
    for (const [hash, bytes] of sets.flat()) await upload(hash, bytes);
    const [other, ...manifests] = sets.map((files) => files.at(-1)![0]);
    for (const manifest of manifests) {
      const racing: PublishBucket = {
        head: (name) => env.ARTIFACTS.head(name),
        get: (name) => env.ARTIFACTS.get(name),
        async put(...args) {
          await serve(other);
          return env.ARTIFACTS.put(...args);
        },
      };
      const { post } = testApp({ artifactBucket: racing });
      await expectError(post("/admin/v1/artifacts", { manifest }), { status: 409, code: "switch_conflict" });
      expect(await (await serve(manifest)).json()).toMatchObject({ before: other, switched: true });
      expect((await env.ARTIFACTS.head(pointerName))?.customMetadata).toHaveProperty("edge-files");
    }
  });

  test("a file of another hash, of no length, too large, or under another name is refused, and nothing is stored", async () => {
    const body = bytesOf("adapters");
    const hash = await sha256Hex(body);
    const refused: [Response, object][] = [
      [await upload("0".repeat(64), body), { status: 400, message: expect.stringContaining("SHA-256 is not 0000") }],
      [await upload(hash, body.slice(1)), { status: 400 }],
      [await upload(hash, body, { "content-length": "" }), { status: 400, message: expect.stringContaining("Length") }],
      [await upload(hash, body, { "content-length": "67108865" }), { status: 413, code: "body_too_large" }],
      [await upload(hash.toUpperCase(), body), { status: 404 }],
      [await upload("current.json", body), { status: 404 }],
      [await upload("..%2Fcurrent.json", body), { status: 404 }],
    ];
    for (const [response, error] of refused) await expectError(response, error);
    expect(await stored()).toEqual([]);
  });

  test.each(["", "abc", "Z".repeat(64), "0".repeat(65), "current"])("manifest %j is refused", async (manifest) => {
    await expectError(serve(manifest), { status: 400, param: "manifest" });
  });

  test("a deployment without a bucket says so", async () => {
    const { request } = testApp({ artifactBucket: null });
    await expectError(request("/admin/v1/artifacts"), { status: 404, mentions: "no bucket ARTIFACTS" });
  });
});
