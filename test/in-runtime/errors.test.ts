import { env, exports } from "cloudflare:workers";
import { delay, HttpResponse, http } from "msw";
import { describe, expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import {
  backendAnswers,
  backendStreams,
  backendUrl,
  cellsWith,
  errorOf,
  key,
  network,
  testApp,
  useNetwork,
} from "./harness.ts";

useNetwork();

const valid = { model: "gpt2", prompt: "aaa", max_tokens: 1 };

describe("a request that is refused", () => {
  const cases: [string, number, string | null, object | string, string[]][] = [
    ["no JSON", 400, "", "{", ["JSON"]],
    ["a list as body", 400, "", "[1]", ["list", "object"]],
    ["an empty prompt", 400, "prompt", { ...valid, prompt: "" }, ["empty"]],
    ["an empty list of prompts", 400, "prompt", { ...valid, prompt: [] }, ["empty"]],
    ["an empty prompt among others", 400, "prompt", { ...valid, prompt: ["a", ""] }, ["prompt[1]", "empty"]],
    ["prompts of two kinds", 400, "prompt", { ...valid, prompt: ["a", [1]] }, ["prompt[1]", "list"]],
    ["a nested prompt", 400, "prompt", { ...valid, prompt: [[[1]]] }, ["prompt[0]", "[1]"]],
    ["a prompt of another type", 400, "prompt", { ...valid, prompt: { text: "a" } }, ["object"]],
    ["a fractional token id", 400, "prompt", { ...valid, prompt: [1.5] }, ["1.5"]],
    ["a negative token id", 400, "prompt", { ...valid, prompt: [3, -1] }, ["prompt[1]", "-1"]],
    ["a token id out of the vocabulary", 400, "prompt", { ...valid, prompt: [[1], [264]] }, ["264", "prompt[1]"]],
    ["a prompt over the context", 400, "prompt", { ...valid, prompt: Array(49).fill(1) }, ["49", "48"]],
    ["too many prompts", 400, "prompt", { ...valid, prompt: Array(33).fill("a") }, ["33", "32"]],
    ["n over its limit", 400, "n", { ...valid, n: 17 }, ["17", "16"]],
    ["prompts × n over the limit", 400, "n", { ...valid, n: 16, prompt: Array(9).fill("a") }, ["144", "128"]],
    ["a negative max_tokens", 400, "max_tokens", { ...valid, max_tokens: -1 }, ["-1", "0"]],
    ["max_tokens as text", 400, "max_tokens", { ...valid, max_tokens: "5" }, ['"5"', "number"]],
    ["a fractional max_tokens", 400, "max_tokens", { ...valid, max_tokens: 1.5 }, ["1.5", "integer"]],
    ["a temperature over its limit", 400, "temperature", { ...valid, temperature: 2.5 }, ["2.5", "2"]],
    ["a top_k below -1", 400, "top_k", { ...valid, top_k: -2 }, ["-2", "-1"]],
    ["a top_k that is no whole number", 400, "top_k", { ...valid, top_k: 2.5 }, ["2.5"]],
    ["a min_p over 1", 400, "min_p", { ...valid, min_p: 1.1 }, ["1.1", "1"]],
    ["a top_p over 1", 400, "top_p", { ...valid, top_p: 1.1 }, ["1.1", "1"]],
    ["logprobs over the limit", 400, "logprobs", { ...valid, logprobs: 6 }, ["6", "5"]],
    ["five stop strings", 400, "stop", { ...valid, stop: ["1", "2", "3", "4", "5"] }, ["5", "4"]],
    ["an empty stop string", 400, "stop", { ...valid, stop: [""] }, ["0", "128"]],
    ["a long stop string", 400, "stop", { ...valid, stop: "x".repeat(129) }, ["129", "128"]],
    ["a penalty over its limit", 400, "presence_penalty", { ...valid, presence_penalty: -3 }, ["-3", "-2"]],
    [
      "a min_tokens over max_tokens",
      400,
      "min_tokens",
      { ...valid, max_tokens: 5, min_tokens: 6 },
      ["6", "max_tokens: 5"],
    ],
    ["a min_tokens over the default max_tokens", 400, "min_tokens", { prompt: "a", min_tokens: 17 }, ["17", "16"]],
    ["a min_tokens over the context", 400, "min_tokens", { ...valid, max_tokens: 99, min_tokens: 49 }, ["49", "48"]],
    ["a negative min_tokens", 400, "min_tokens", { ...valid, min_tokens: -1 }, ["-1", "0"]],
    ["ignore_eos as text", 400, "ignore_eos", { ...valid, ignore_eos: "yes" }, ['"yes"', "boolean"]],
    ["a stop token out of the vocabulary", 400, "stop_token_ids", { ...valid, stop_token_ids: [1, 264] }, ["264"]],
    [
      "a negative stop token",
      400,
      "stop_token_ids[0]",
      { ...valid, stop_token_ids: [-2] },
      ["stop_token_ids[0]", "-2"],
    ],
    ["stop tokens in no list", 400, "stop_token_ids", { ...valid, stop_token_ids: 5 }, ["number", "list"]],
    ["too many stop tokens", 400, "stop_token_ids", { ...valid, stop_token_ids: Array(65).fill("x") }, ["65", "64"]],
    [
      "a repetition_penalty over its limit",
      400,
      "repetition_penalty",
      { ...valid, repetition_penalty: 11 },
      ["11", "10"],
    ],
    ["a repetition_penalty of 0", 400, "repetition_penalty", { ...valid, repetition_penalty: 0 }, ["0", "0.1"]],
    ["a logit_bias over its limit", 400, "logit_bias", { ...valid, logit_bias: { 5: 101 } }, ["101", "100"]],
    ["a logit_bias of no token", 400, "logit_bias", { ...valid, logit_bias: { the: 1 } }, ["the"]],
    ["a logit_bias out of the vocabulary", 400, "logit_bias", { ...valid, logit_bias: { 264: 1 } }, ["264"]],
    ["a logit_bias that is no object", 400, "logit_bias", { ...valid, logit_bias: [1] }, ["list"]],
    ["a logit_bias of text", 400, "logit_bias", { ...valid, logit_bias: { 5: "1" } }, ['"1"', "number"]],
    ["a long model", 400, "model", { ...valid, model: "m".repeat(257) }, ["257", "256"]],
    ["a long user", 400, "user", { ...valid, user: "u".repeat(1025) }, ["1025", "1024"]],
    ["a long adapter", 400, "chameleon.adapter", { ...valid, chameleon: { adapter: "c".repeat(65) } }, ["65", "64"]],
    ["best_of", 400, "best_of", { ...valid, best_of: 3 }, ["3"]],
    ["suffix", 400, "suffix", { ...valid, suffix: "end" }, ["suffix"]],
    ["stream_options without stream", 400, "stream_options", { ...valid, stream_options: {} }, ["stream"]],
    ["another adapter", 400, "chameleon.adapter", { ...valid, chameleon: { adapter: "c9" } }, ["c9"]],
    ["an unknown model", 404, "model", { ...valid, model: "gpt-5" }, ["gpt-5"]],
    ["an unknown centroid", 404, "model", { ...valid, model: "gpt2:c9" }, ["gpt2:c9"]],
  ];
  test.each(cases)("%s: %d", async (_, status, param, body, mentioned) => {
    const response = await testApp().post("/v1/completions", body);
    const error = await errorOf(response);
    expect(error.status, error.message).toBe(status);
    expect(error.param).toBe(param || null);
    expect(error.type).toBe("invalid_request_error");
    for (const text of mentioned) expect(error.message).toContain(text);
    expect(response.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
  });

  test.each([
    ["prompt", "/v1/completions", { prompt: "a".repeat(49) }],
    ["prompt", "/v1/completions", { prompt: ["a", "the ".repeat(2e5)] }],
    ["messages", "/v1/chat/completions", { messages: [{ role: "user", content: "a ".repeat(4e5) }] }],
  ])(
    "a %s over the context has its own code, and is encoded no further than one token over it",
    async (param, path, body) => {
      const error = await errorOf(await testApp().post(path, { model: "gpt2", ...body }));
      expect(error).toMatchObject({ status: 400, code: "context_length_exceeded", param });
      expect(error.message).toMatch(/has at least 49 tokens; the context of gpt2 holds 48/);
    },
  );

  test.each([undefined, "Basic abc", "Bearer", "Bearer sk-wrong"])("a key of %s: 401", async (authorization) => {
    const { app } = testApp();
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (authorization) headers.authorization = authorization;
    const response = await app.request("http://edge/v1/completions", { method: "POST", headers, body: "{}" });
    const error = await errorOf(response);
    expect(error).toMatchObject({ status: 401, type: "authentication_error", code: "invalid_api_key" });
    expect(error.message).not.toContain("sk-wrong");
  });

  test("a body over the limit: 413, with and without Content-Length", async () => {
    const large = JSON.stringify({ ...valid, user: "x".repeat(limits.bodyBytes) });
    const declared = await errorOf(await testApp().complete(JSON.parse(large)));
    expect(declared).toMatchObject({ status: 413, code: "body_too_large" });
    expect(declared.message).toContain(String(limits.bodyBytes));
    let pulled = 0;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        pulled += 65_536;
        controller.enqueue(new Uint8Array(65_536).fill(32));
      },
    });
    const streamed = await testApp().request("/v1/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: endless,
    });
    expect(streamed.status).toBe(413);
    expect(pulled).toBeLessThan(2 * limits.bodyBytes);
  });

  test("a body that is not UTF-8: 400", async () => {
    const { request } = testApp();
    const headers = { "content-type": "application/json" };
    const body = new Uint8Array([0x7b, 0xff, 0x7d]);
    expect(await errorOf(await request("/v1/completions", { method: "POST", headers, body }))).toMatchObject({
      status: 400,
      message: expect.stringContaining("UTF-8"),
    });
  });

  test("a body that breaks off: 400, and nothing in the log of our failures", async () => {
    const { request, logged } = testApp();
    const headers = { "content-type": "application/json" };
    const body = new ReadableStream({
      pull(controller) {
        controller.enqueue(new TextEncoder().encode('{"prompt"'));
        controller.error(new Error("Network connection lost."));
      },
    });
    const error = await errorOf(await request("/v1/completions", { method: "POST", headers, body }));
    expect(error).toMatchObject({ status: 400, message: expect.stringMatching(/broke off after \d+ bytes/) });
    expect(logged).toEqual([]);
  });

  test("two Host headers make no URL: a page's call is refused, not a failure of ours", async () => {
    const { app, logged } = testApp();
    const headers = { authorization: `Bearer ${key}`, origin: "null" };
    const request = new Request("http://edge/v1/models", { headers });
    // The runtime joins two Host headers into this URL, which the Request constructor would not accept.
    Object.defineProperty(request, "url", { value: "http://edge, other/v1/models" });
    expect(await errorOf(await app.fetch(request))).toMatchObject({ status: 403 });
    expect(logged).toEqual([]);
  });

  test("an unknown route: 404", async () => {
    const { request } = testApp();
    expect(await errorOf(await request("/v2/nothing"))).toMatchObject({ status: 404, code: "not_found" });
    expect(await errorOf(await request("/artifacts/manifest.json"))).toMatchObject({ status: 404 });
  });
});

describe("a backend that fails", () => {
  test("away: 503 with Retry-After, streamed or not", async () => {
    network.use(http.post(`${backendUrl}/v1/batches`, () => HttpResponse.error()));
    for (const stream of [false, true]) {
      const response = await testApp().complete({ ...valid, stream });
      expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
      expect(await errorOf(response)).toMatchObject({ status: 503, code: "backend_unavailable", type: "server_error" });
    }
  });

  test("silent: 503 once the time to accept is over", async () => {
    network.use(http.post(`${backendUrl}/v1/batches`, () => delay("infinite")));
    const { complete } = testApp({ cells: cellsWith({ acceptanceMs: 10 }) });
    expect(await errorOf(await complete(valid))).toMatchObject({ status: 503, code: "backend_unavailable" });
  });

  test.each([
    [429, 429, "overloaded"],
    [503, 503, "backend_unavailable"],
    [409, 503, "backend_unavailable"],
  ])("refusing with %d: %d with its Retry-After and its reason", async (answered, status, code) => {
    backendStreams(() =>
      HttpResponse.json(
        { error: { message: "because of 12 and 10", type: "x", param: null, code: "y" } },
        { status: answered, headers: { "retry-after": "9" } },
      ),
    );
    const response = await testApp().complete({ ...valid, stream: true });
    expect(response.headers.get("retry-after")).toBe("9");
    const error = await errorOf(response);
    expect(error).toMatchObject({ status, code });
    expect(error.message).toContain("because of 12 and 10");
  });

  test("refusing our request: 500 that keeps the details to the log", async () => {
    backendStreams(() =>
      HttpResponse.json({ error: { message: "secret", type: "x", param: null, code: "y" } }, { status: 400 }),
    );
    const { complete, logged } = testApp();
    const error = await errorOf(await complete(valid));
    expect(error).toMatchObject({ status: 500, code: "internal_error" });
    expect(error.message).not.toContain("secret");
    expect(logged).toHaveLength(1);
  });

  test.each([
    ["not JSON", "nonsense\n"],
    ["no frame", '{"type":"token"}\n'],
    ["a frame of somebody else", '{"type":"token","id":"x","index":0,"tokenId":1}\n'],
    ["nothing", ""],
    ["half a line", '{"type":"tok'],
  ])("sending %s: 503", async (_, body) => {
    backendStreams(() => new Response(body));
    expect(await errorOf(await testApp().complete(valid))).toMatchObject({ status: 503, code: "backend_unavailable" });
  });

  test("an error frame has its own status", async () => {
    backendAnswers(({ id }) => [
      { type: "error", id, kind: "overloaded", message: "no slot of 8 in 30 s", retryAfterSeconds: 4 },
    ]);
    const response = await testApp().complete(valid);
    expect(response.headers.get("retry-after")).toBe("4");
    expect(await errorOf(response)).toMatchObject({ status: 429, message: "no slot of 8 in 30 s" });
  });
});

test("the deployed Worker is wired: it is healthy, and closed to strangers", async () => {
  const health = await exports.default.fetch("http://edge/healthz");
  expect([health.status, await health.json()]).toEqual([200, { status: "ok", version: env.VERSION.id }]);
  const stranger = await exports.default.fetch("http://edge/v1/models", { headers: { authorization: "Bearer sk-x" } });
  expect((await errorOf(stranger)).status).toBe(401);
});
