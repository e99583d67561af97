import { env, exports } from "cloudflare:workers";
import { delay, HttpResponse, http } from "msw";
import { describe, expect, test } from "vitest";
import { errorFrame } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { errorOf, expectError } from "./answers.ts";
import { backendAnswers, backendStreams, backendUrl } from "./backend.ts";
import { cellsWith, key, testApp } from "./harness.ts";
import { network } from "./network.ts";

const valid = { model: "gpt2", prompt: "aaa", max_tokens: 1 };

const json = { "content-type": "application/json" };
const send = (body: BodyInit, { request } = testApp()) =>
  request("/v1/completions", { method: "POST", headers: json, body });

describe("a request that is refused", () => {
  const cases: [string, string, object, string[], number?][] = [
    ["an empty prompt", "prompt", { ...valid, prompt: "" }, ["empty"]],
    ["an empty list of prompts", "prompt", { ...valid, prompt: [] }, ["empty"]],
    ["an empty prompt among others", "prompt", { ...valid, prompt: ["a", ""] }, ["prompt[1]", "empty"]],
    ["prompts of two kinds", "prompt", { ...valid, prompt: ["a", [1]] }, ["prompt[1]", "list"]],
    ["a nested prompt", "prompt", { ...valid, prompt: [[[1]]] }, ["prompt[0]", "[1]"]],
    ["a prompt of another type", "prompt", { ...valid, prompt: { text: "a" } }, ["object"]],
    ["a fractional token id", "prompt", { ...valid, prompt: [1.5] }, ["1.5"]],
    ["a negative token id", "prompt", { ...valid, prompt: [3, -1] }, ["prompt[1]", "-1"]],
    ["a token id out of the vocabulary", "prompt", { ...valid, prompt: [[1], [264]] }, ["264", "prompt[1]"]],
    ["a prompt over the context", "prompt", { ...valid, prompt: Array(49).fill(1) }, ["49", "48"]],
    ["too many prompts", "prompt", { ...valid, prompt: Array(33).fill("a") }, ["33", "32"]],
    ["n over its limit", "n", { ...valid, n: 17 }, ["17", "16"]],
    ["prompts × n over the limit", "n", { ...valid, n: 16, prompt: Array(9).fill("a") }, ["144", "128"]],
    ["a negative max_tokens", "max_tokens", { ...valid, max_tokens: -1 }, ["-1", "0"]],
    ["max_tokens as text", "max_tokens", { ...valid, max_tokens: "5" }, ['"5"', "number"]],
    ["a fractional max_tokens", "max_tokens", { ...valid, max_tokens: 1.5 }, ["1.5", "integer"]],
    ["a temperature over its limit", "temperature", { ...valid, temperature: 2.5 }, ["2.5", "2"]],
    ["a top_k below -1", "top_k", { ...valid, top_k: -2 }, ["-2", "-1"]],
    ["a min_p over 1", "min_p", { ...valid, min_p: 1.1 }, ["1.1", "1"]],
    ["a top_p over 1", "top_p", { ...valid, top_p: 1.1 }, ["1.1", "1"]],
    ["logprobs over the limit", "logprobs", { ...valid, logprobs: 6 }, ["6", "5"]],
    ["five stop strings", "stop", { ...valid, stop: ["1", "2", "3", "4", "5"] }, ["5", "4"]],
    ["an empty stop string", "stop", { ...valid, stop: [""] }, ["0", "128"]],
    ["a long stop string", "stop", { ...valid, stop: "x".repeat(129) }, ["129", "128"]],
    ["a penalty over its limit", "presence_penalty", { ...valid, presence_penalty: -3 }, ["-3", "-2"]],
    ["a min_tokens over max_tokens", "min_tokens", { ...valid, max_tokens: 5, min_tokens: 6 }, ["6", "max_tokens: 5"]],
    ["a min_tokens over the default max_tokens", "min_tokens", { prompt: "a", min_tokens: 17 }, ["17", "16"]],
    ["a min_tokens over the context", "min_tokens", { ...valid, max_tokens: 99, min_tokens: 49 }, ["49", "48"]],
    ["a negative min_tokens", "min_tokens", { ...valid, min_tokens: -1 }, ["-1", "0"]],
    ["ignore_eos as text", "ignore_eos", { ...valid, ignore_eos: "yes" }, ['"yes"', "boolean"]],
    ["a stop token out of the vocabulary", "stop_token_ids", { ...valid, stop_token_ids: [1, 264] }, ["264"]],
    ["a negative stop token", "stop_token_ids[0]", { ...valid, stop_token_ids: [-2] }, ["stop_token_ids[0]", "-2"]],
    ["stop tokens in no list", "stop_token_ids", { ...valid, stop_token_ids: 5 }, ["number", "list"]],
    ["too many stop tokens", "stop_token_ids", { ...valid, stop_token_ids: Array(65).fill("x") }, ["65", "64"]],
    ["a repetition_penalty over its limit", "repetition_penalty", { ...valid, repetition_penalty: 11 }, ["11", "10"]],
    ["a repetition_penalty of 0", "repetition_penalty", { ...valid, repetition_penalty: 0 }, ["0", "0.1"]],
    ["a logit_bias over its limit", "logit_bias", { ...valid, logit_bias: { 5: 101 } }, ["101", "100"]],
    ["a logit_bias of no token", "logit_bias", { ...valid, logit_bias: { the: 1 } }, ["the"]],
    ["a logit_bias out of the vocabulary", "logit_bias", { ...valid, logit_bias: { 264: 1 } }, ["264"]],
    ["a logit_bias that is no object", "logit_bias", { ...valid, logit_bias: [1] }, ["list"]],
    ["a long model", "model", { ...valid, model: "m".repeat(257) }, ["257", "256"]],
    ["a long user", "user", { ...valid, user: "u".repeat(1025) }, ["1025", "1024"]],
    ["a long adapter", "chameleon.adapter", { ...valid, chameleon: { adapter: "c".repeat(65) } }, ["65", "64"]],
    ["best_of", "best_of", { ...valid, best_of: 3 }, ["3"]],
    ["suffix", "suffix", { ...valid, suffix: "end" }, ["suffix"]],
    ["stream_options without stream", "stream_options", { ...valid, stream_options: {} }, ["stream"]],
    ["another adapter", "chameleon.adapter", { ...valid, chameleon: { adapter: "c9" } }, ["c9"]],
    ["an unknown model", "model", { ...valid, model: "gpt-5" }, ["gpt-5"], 404],
    ["an unknown centroid", "model", { ...valid, model: "gpt2:c9" }, ["gpt2:c9"], 404],
  ];
  test.each(cases)("%s", async (_, param, body, mentions, status = 400) => {
    const response = await testApp().post("/v1/completions", body);
    expect(response.headers.get("x-request-id")).toMatch(/^req_[0-9a-f]{32}$/);
    await expectError(response, { status, param, type: "invalid_request_error", mentions });
  });

  test.each([
    ["prompt", "/v1/completions", { prompt: "a".repeat(49) }],
    ["prompt", "/v1/completions", { prompt: ["a", "the ".repeat(2e5)] }],
    ["messages", "/v1/chat/completions", { messages: [{ role: "user", content: "a ".repeat(4e5) }] }],
  ])("a %s over the context has its own code, and is encoded no further than that", async (param, path, body) => {
    const expected = { status: 400, code: "context_length_exceeded", param };
    const mentions = /has at least 49 tokens; the context of gpt2 holds 48/;
    await expectError(testApp().post(path, { model: "gpt2", ...body }), { ...expected, mentions });
  });

  test.each([undefined, "Basic abc", "Bearer", "Bearer sk-wrong"])("a key of %s: 401", async (authorization) => {
    const headers = { ...json, ...(authorization && { authorization }) };
    const response = testApp().app.request("http://edge/v1/completions", { method: "POST", headers, body: "{}" });
    const message = expect.not.stringContaining("sk-wrong");
    await expectError(response, { status: 401, type: "authentication_error", code: "invalid_api_key", message });
  });

  test("a body over the limit, without Content-Length: 413", async () => {
    let pulled = 0;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        pulled += 65_536;
        controller.enqueue(new Uint8Array(65_536).fill(32));
      },
    });
    await expectError(send(endless), { status: 413, code: "body_too_large", mentions: String(limits.bodyBytes) });
    expect(pulled).toBeLessThan(2 * limits.bodyBytes);
  });

  test("a body that is not UTF-8: 400", async () => {
    await expectError(send(new Uint8Array([0x7b, 0xff, 0x7d])), { status: 400, mentions: "UTF-8" });
  });

  test("a body that breaks off: 400, and nothing in the log of our failures", async () => {
    const app = testApp();
    const body = new ReadableStream({
      pull(controller) {
        controller.enqueue(new TextEncoder().encode('{"prompt"'));
        controller.error(new Error("Network connection lost."));
      },
    });
    await expectError(send(body, app), { status: 400, mentions: /broke off after \d+ bytes/ });
    expect(app.logged).toEqual([]);
  });

  test("two Host headers make no URL: a page's call is refused, not a failure of ours", async () => {
    const { app, logged } = testApp();
    const headers = { authorization: `Bearer ${key}`, origin: "null" };
    const request = new Request("http://edge/v1/models", { headers });
    // The runtime joins two Host headers into this URL, which the Request constructor would not accept.
    Object.defineProperty(request, "url", { value: "http://edge, other/v1/models" });
    await expectError(app.fetch(request), { status: 403 });
    expect(logged).toEqual([]);
  });
});

describe("a backend that fails", () => {
  test("away: 503 with Retry-After, streamed or not", async () => {
    network.use(http.post(`${backendUrl}/v1/batches`, () => HttpResponse.error()));
    for (const stream of [false, true]) {
      const response = await testApp().complete({ ...valid, stream });
      expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
      await expectError(response, { status: 503, code: "backend_unavailable", type: "server_error" });
    }
  });

  test("silent: 503 once the time to accept is over", async () => {
    network.use(http.post(`${backendUrl}/v1/batches`, () => delay("infinite")));
    const { complete } = testApp({ cells: cellsWith({ acceptanceMs: 10 }) });
    await expectError(complete(valid), { status: 503, code: "backend_unavailable" });
  });

  test.each([
    [429, 429, "overloaded"],
    [503, 503, "backend_unavailable"],
    [409, 503, "backend_unavailable"],
  ])("refusing with %d: %d with its Retry-After and its reason", async (answered, status, code) => {
    const error = { message: "because of 12 and 10", type: "x", param: null, code: "y" };
    backendStreams(() => HttpResponse.json({ error }, { status: answered, headers: { "retry-after": "9" } }));
    const response = testApp().complete({ ...valid, stream: true });
    await expectError(response, { status, code, retryAfter: "9", mentions: error.message });
  });

  test("refusing our request: 500 that keeps the details to the log", async () => {
    const error = { message: "secret", type: "x", param: null, code: "y" };
    backendStreams(() => HttpResponse.json({ error }, { status: 400 }));
    const { complete, logged } = testApp();
    const message = expect.not.stringContaining("secret");
    await expectError(complete(valid), { status: 500, code: "internal_error", message });
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
    await expectError(testApp().complete(valid), { status: 503, code: "backend_unavailable" });
  });

  test("an error frame has its own status", async () => {
    const error = new ServiceError("overloaded", "no slot of 8 in 30 s", { retryAfterSeconds: 4 });
    backendAnswers(({ id }) => [errorFrame(id, error)]);
    await expectError(testApp().complete(valid), { status: 429, retryAfter: "4", message: error.message });
  });
});

test("the deployed Worker is wired: it is healthy, and closed to strangers", async () => {
  const health = await exports.default.fetch("http://edge/healthz");
  expect([health.status, await health.json()]).toEqual([200, { status: "ok", version: env.VERSION.id }]);
  const stranger = await exports.default.fetch("http://edge/v1/models", { headers: { authorization: "Bearer sk-x" } });
  expect((await errorOf(stranger)).status).toBe(401);
});
