import { exports } from "cloudflare:workers";
import { HttpResponse, http } from "msw";
import { describe, expect, test } from "vitest";
import { createKeyStore, scopeOf } from "../../edge/tenants/keys.ts";
import { operations } from "../../infra/openapi/operations.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { Readiness } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import { edgeModel } from "../support/edge-model.ts";
import { loadOnce } from "../support/load-once.ts";
import { expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendUrl, saying } from "./backend.ts";
import { testApp } from "./harness.ts";
import { artifactsWith, edgeArtifactsWith, manifestHash } from "./model.ts";
import { network } from "./network.ts";

describe("models", () => {
  test("are the base, its automatic adapter, and one per centroid", async () => {
    const list = await jsonOf<{ object: string; data: { id: string }[] }>(testApp().request("/v1/models"));
    expect(list.object).toBe("list");
    expect(list.data.map(({ id }) => id)).toEqual(["gpt2", "gpt2:auto", "gpt2:c0", "gpt2:c1", "gpt2:c2"]);
  });

  test.each(["gpt2", "gpt2:auto", "gpt2%3Ac1"])("one by its id: %s", async (id) => {
    expect(await jsonOf(testApp().request(`/v1/models/${id}`))).toEqual({
      ...{ id: decodeURIComponent(id), object: "model", created: expect.any(Number), owned_by: "chameleon-edge" },
      ...{ base: "gpt2", context_length: edgeModel.contextTokens, manifest: await manifestHash() },
    });
  });

  test("have aliases of the deployment and the tenant, wherever a model is named", async () => {
    backendAnswers(({ id }) => saying(id, "b"));
    const hash = await sha256Hex(new TextEncoder().encode("sk-named"));
    const aliases = { "gpt-4o-mini": "gpt2:c1", own: "gpt2", gone: "gpt2:nobody" };
    const records = { get: async () => ({ plan: "unlimited", limits: {}, origins: [], aliases }) } as never;
    const deployed = { "gpt-4o-mini": "gpt2:c0", "gpt-4o": "gpt2:c2", constructor: "gpt2" };
    const keys = createKeyStore([{ hash, tenant: "named" }], records, () => Date.now(), undefined, deployed);
    const artifacts = artifactsWith(false, { chatTemplate: "{{ messages[0].content }}" });
    const app = testApp({ keys, artifacts }, "Bearer sk-named");
    const modelOf = async (path: string, body: object) => {
      return ((await jsonOf(app.post(path, body))) as { model: string }).model;
    };
    expect(await modelOf("/v1/completions", { model: "gpt-4o-mini", prompt: "a" })).toBe("gpt2:c1");
    expect(await modelOf("/v1/responses", { model: "gpt-4o", input: "a" })).toBe("gpt2:c2");
    expect(await modelOf("/v1/embeddings", { model: "own", input: "a" })).toBe("gpt2");
    expect(await modelOf("/v1/completions", { model: "gpt2:c0", prompt: "a" })).toBe("gpt2:c0");
    const { data } = await jsonOf<{ data: { id: string; alias_of?: string }[] }>(app.request("/v1/models"));
    const listed = data.flatMap(({ id, alias_of }) => (alias_of ? [`${id} ${alias_of}`] : []));
    expect(listed).toEqual(["gpt-4o-mini gpt2:c1", "gpt-4o gpt2:c2", "constructor gpt2", "own gpt2"]);
    const one = await jsonOf(app.request("/v1/models/gpt-4o"));
    expect(one).toMatchObject({ id: "gpt-4o", alias_of: "gpt2:c2" });
    const named = (model: string) => app.post("/v1/completions", { model, prompt: "a" });
    const mentions = /"gpt5".*gpt2, gpt2:auto and gpt2:<centroid>.*aliases: gpt-4o-mini, gpt-4o, /;
    await expectError(named("gpt5"), { status: 404, code: "model_not_found", param: "model", mentions });
    await expectError(named("gone"), { status: 404, mentions: "gpt2:nobody" });
    const deleted = app.request("/v1/models/gpt-4o", { method: "DELETE" });
    await expectError(deleted, { status: 403, mentions: "gpt2:c2" });
  });

  test("an unknown one: 404", async () => {
    const refused = testApp().request("/v1/models/gpt2:c7");
    await expectError(refused, { status: 404, code: "model_not_found", mentions: "gpt2:c7" });
  });
});

test.each([
  ["/completions", "/v1/completions"],
  ["/chat/completions", "/v1/chat/completions"],
  ["/v1/v1/responses", "/v1/responses"],
  ["/models/gpt2:c1", "/v1/models/gpt2:c1"],
  ["/v1/chat/completions/", "/v1/chat/completions"],
  ["/v2/completions", null],
  ["/v1/unknown", null],
  ["/unknown", null],
  ["/artifacts/manifest.json", null],
])("there is no %s: the error suggests the route that was meant", async (path, meant) => {
  for (const method of ["GET", "POST"]) {
    const didYouMean = meant === null ? expect.not.stringContaining("Did you mean") : expect.any(String);
    const mentions = meant === null ? "" : `There is no ${path}. Did you mean ${meant}?`;
    await expectError(testApp().request(path, { method }), {
      status: 404,
      code: "not_found",
      message: didYouMean,
      mentions,
    });
  }
});

describe("assign", () => {
  const assign = (body: object) => testApp().post("/v1/assign", body);

  test("names the nearest centroid of each text, and the next ones", async () => {
    const { data } = await jsonOf<{ data: unknown[] }>(assign({ input: ["aab", "zzz"], top: 2 }));
    const first = { index: 0, tokens: 3, centroid: "c0", similarity: expect.closeTo(2 / Math.sqrt(5), 5) };
    const next = { centroid: "c1", similarity: expect.closeTo(1 / Math.sqrt(5), 5) };
    expect(data).toEqual([
      { ...first, mode: "evidence", experts: ["base", "c0", "c1"], runners_up: [next] },
      expect.objectContaining({ index: 1, centroid: "c2", mode: "evidence" }),
    ]);
  });

  test.each([
    ["gpt2:c1", ["c1"]],
    ["gpt2", ["base"]],
  ])("names what would answer by the model %s", async (model, experts) => {
    expect(await jsonOf(assign({ input: "aab", model }))).toMatchObject({ data: [{ experts }] });
  });

  test("takes one text, token ids, and texts longer than the context", async () => {
    for (const input of ["bbb", [98, 98], [[98], [98]], "b".repeat(500)]) {
      const { data } = await jsonOf<{ data: { centroid: string; tokens: number }[] }>(assign({ input }));
      expect(data[0].centroid).toBe("c1");
      // A text is read only as far as its assignment needs.
      expect(data[0].tokens).toBeLessThanOrEqual(8);
    }
  });

  test.each([
    [{}, "input"],
    [{ input: "" }, "empty"],
    [{ input: Array(65).fill("a") }, "64"],
    [{ input: [999] }, "999"],
  ])("refuses %j", async (body, mentioned) => {
    await expectError(assign(body), { status: 400, param: "input", mentions: mentioned });
  });
});

test("centroids come with label, gain and whether they are off", async () => {
  const { data, manifest } = await jsonOf<{ data: object[]; manifest: string }>(testApp().request("/v1/centroids"));
  expect(manifest).toBe(await manifestHash());
  expect(data).toHaveLength(3);
  expect(data[1]).toMatchObject({
    ...{ id: "c1", model: "gpt2:c1", label: ["b"], scale: 0.5, auto_off: false, position: [1, -1] },
    gain: { nats: 0.2, ci95: [0.05, 0.3], tokens: 1000 },
  });
  expect(data[2]).toMatchObject({ id: "c2", auto_off: true, gain: null });
  expect(data[0]).toMatchObject({ adapter: { hash: expect.stringMatching(/^[0-9a-f]{64}$/) } });
});

describe("the API's document", () => {
  const documented = operations.map(({ method, path }) => `${method.toUpperCase()} ${path}`);

  test("has every route of the app, and no other", () => {
    const routes = testApp()
      .app.routes.filter(({ method }) => method !== "ALL")
      .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, "{$1}").replace("*", "{file}")}`);
    expect(routes.length).toBeGreaterThan(10);
    expect(documented.sort()).toEqual(routes.sort());
  });

  test("asks for a key, and names its scope, as the routes do", () => {
    for (const { path, scope } of operations) {
      expect([path, scope]).toEqual([path, path.startsWith("/admin/") ? "admin" : scopeOf(path)]);
    }
  });

  test("is open to all, and so is the page that draws it, with scripts of this host alone", async () => {
    const { app } = testApp();
    const document = await app.request("http://edge/openapi.json");
    expect([document.status, await document.text()]).toEqual([200, "/openapi.json"]);
    expect(document.headers.get("content-type")).toContain("application/json");
    const docs = await app.request("http://edge/docs/api");
    expect([docs.status, await docs.text()]).toEqual([200, "/docs.html"]);
    expect(docs.headers.get("content-security-policy")).toMatch(/script-src [^;]*'self'.*style-src [^;]*'self'/);
    const script = await app.request("http://edge/docs/swagger-ui-bundle.js");
    expect(await script.text()).toBe("/docs/swagger-ui-bundle.js");
    expect(script.headers.get("content-type")).toContain("text/javascript");
  });

  test("comes without any other asset", async () => {
    const { app } = testApp();
    for (const file of ["index.html", "swagger-ui.js", "__proto__", "..%2Fopenapi.json"]) {
      await expectError(app.request(`http://edge/docs/${file}`), { code: "not_found" });
    }
  });

  test("is staged with the files of its page", async () => {
    for (const path of ["/openapi.json", "/docs/api", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/"]) {
      const response = await exports.default.fetch(`http://edge${path}`);
      expect([path, response.status, (await response.text()).length > 1000]).toEqual([path, 200, true]);
    }
  });

  test.each(["/docs", "/docs/"])("stands at %s where the documents site was not built", async (path) => {
    const response = await testApp().app.request(`http://edge${path}`, { redirect: "manual" });
    expect([response.status, response.headers.get("location")]).toEqual([302, "/docs/api"]);
  });

  test("is served beside the documents site: pages by name, files, and nothing that the site's list lacks", async () => {
    const files: Record<string, string> = {
      "files.json": JSON.stringify(["index.html", "how-to/train.html", "assets/app.js"]),
      "index.html": "<script>first()</script>",
      "how-to/train.html": "<p>train</p>",
      "assets/app.js": "second()",
      "unlisted.html": "<p>hidden</p>",
    };
    const asset = async (path: string) => new Response(files[path.replace("/docs/site/", "")]);
    const { app } = testApp({ asset });
    const get = async (path: string) => {
      const response = await app.request(`http://edge${path}`);
      return { response, text: await response.text(), type: response.headers.get("content-type") };
    };
    const first = await get("/docs");
    expect(first.text).toBe(files["index.html"]);
    expect(first.response.headers.get("content-security-policy")).toMatch(/script-src 'sha256-[^']+' 'self';/);
    expect((await get("/docs/")).text).toBe(files["index.html"]);
    expect(await get("/docs/how-to/train")).toMatchObject({ text: "<p>train</p>", type: "text/html; charset=utf-8" });
    const script = { text: "second()", type: "text/javascript; charset=utf-8" };
    expect(await get("/docs/assets/app.js")).toMatchObject(script);
    for (const path of ["unlisted", "files.json", "site/index.html", "..%2Findex"]) {
      expect((await get(`/docs/${path}`)).response.status, path).toBe(404);
    }
  });
});

describe("readiness", () => {
  const backendSays = (body: object) => network.use(http.get(`${backendUrl}/readyz`, () => HttpResponse.json(body)));
  const readiness = (hash: string) => ({ status: "ready", model: "tiny", servedAs: "gpt2", manifestHash: hash });

  test("is ready if a backend with our manifest is ready", async () => {
    backendSays(readiness(await manifestHash()));
    const manifest = await manifestHash();
    expect(await jsonOf(testApp().request("/readyz"))).toEqual({ status: "ready", manifest });
  });

  test("is not ready if the backend has another manifest; the message names both", async () => {
    backendSays(readiness("f".repeat(64)));
    const mentions = ["f".repeat(64), await manifestHash()];
    const expected = { status: 503, code: "backend_unavailable", retryAfter: "2", mentions };
    await expectError(testApp().request("/readyz"), expected);
  });

  test.each<[string, () => Response | Promise<Response>]>([
    ["is loading", async () => HttpResponse.json(readiness(await manifestHash()), { status: 503 })],
    ["is broken", () => new HttpResponse("oops", { status: 500 })],
    ["is away", () => HttpResponse.error()],
  ])("not ready: a backend that %s", async (_, answer) => {
    network.use(http.get(`${backendUrl}/readyz`, answer));
    expect((await testApp().request("/readyz")).status).toBe(503);
  });

  test("is probed once a second, however many ask and whatever came of it", async () => {
    let [nowMs, probes] = [0, 0];
    const ready = readiness(await manifestHash()) as Readiness;
    let result: readonly Readiness[] = [];
    const { request } = testApp({
      now: () => nowMs,
      readiness: async () => {
        probes++;
        return [...result];
      },
    });
    const ask = async (times: number) => {
      const all = await Promise.all(Array.from({ length: times }, () => request("/readyz")));
      return new Set(all.map(({ status }) => status));
    };
    for (const [status, found] of [
      [200, [ready]],
      [503, []],
    ] as const) {
      const probesBefore = probes;
      result = found;
      expect(await ask(50)).toEqual(new Set([status]));
      nowMs += 999;
      expect(await ask(50)).toEqual(new Set([status]));
      expect(probes).toBe(probesBefore + 1);
      nowMs += 1;
    }
  });

  test("asks where there are containers only with ?wake=true, because that starts them", async () => {
    const { request } = testApp({ hasContainers: true, readiness: async () => [] });
    expect((await request("/readyz")).status).toBe(200);
    expect((await request("/readyz?wake=true")).status).toBe(503);
    expect((await request("/readyz")).status).toBe(200);
  });

  test("is not ready without artifacts; completions say so, too, and a later request tries again", async () => {
    let broken = true;
    const artifacts = loadOnce(async () => {
      if (broken) throw new ServiceError("backend_unavailable", "no tables", { retryAfterSeconds: 2 });
      return edgeArtifactsWith();
    });
    const { request, complete } = testApp({ artifacts });
    expect((await request("/readyz")).status).toBe(503);
    await expectError(complete({ prompt: "a" }), { status: 503, message: "no tables" });
    broken = false;
    expect((await request("/v1/models")).status).toBe(200);
  });
});
