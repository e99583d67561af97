/**
 * Attack: requests with very long strings and lists and deep nesting, guessed keys, keys beyond their scope. Judged by: status
 * and size of the response, and later requests.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { type AttackedEdge, BACKEND_SECRETS, startAttackedEdge } from "./edge.ts";

const long = "x".repeat(900_000);
const example = "The quick brown fox jumps over the lazy dog, and again. ";
const own = "mine";
/** An error does not repeat the refused value. Bytes. */
const mostErrorBytes = 2000;
const patience = { timeout: 20_000 };

let backend: Backend;
let edge: AttackedEdge;
beforeAll(async () => {
  backend = await startBackend({ BACKEND_SECRETS, THREADS: "1" });
  const tenants = { owner: {}, counted: {} };
  edge = await startAttackedEdge({
    backendUrls: [backend.url],
    tenants: { ...tenants, accountant: { tenant: "owner", scopes: ["usage"] } },
  });
  for (const tenant of ["owner", "counted"]) {
    const examples = [example, example.repeat(2), example.repeat(3)];
    const created = await edge.post("/v1/adapters", tenant, { name: own, examples });
    expect(created.status, await created.text()).toBe(201);
  }
});
afterAll(async () => {
  await edge?.stop();
  backend?.child.kill();
  await backend?.exited;
});

describe("an oversized field is refused with a short error", () => {
  const chameleon = { adapter: own };
  const chat = { messages: [{ role: "user", content: "Once" }], max_tokens: 1 };
  const tooLong = /model.* 900000 characters, the maximum is 256\b/;
  const unknown = { model: "no-such-model", chameleon };
  const cases: [what: string, route: string, body: unknown, names: RegExp, status?: number][] = [
    ["an unknown model beside an own adapter", "completions", { ...unknown, max_tokens: 1 }, /no-such-model/, 404],
    ["an unknown model beside an own adapter", "chat/completions", { ...chat, ...unknown }, /no-such-model/, 404],
    ["a model of 900 kB beside an own adapter", "completions", { model: long, chameleon, max_tokens: 1 }, tooLong],
    ["a model of 900 kB, streamed", "completions", { model: long, chameleon, n: 16, stream: true }, tooLong],
    ["a model of 900 kB", "chat/completions", { ...chat, model: long, chameleon }, tooLong],
    ["a model of 900 kB", "embeddings", { model: long, input: "Once" }, tooLong],
    ["a model of 900 kB", "assign", { model: long, input: "Once" }, tooLong],
    ["a user of 900 kB", "completions", { prompt: "Once", max_tokens: 1, user: long }, /user.*900000/],
    ["a user of 900 kB", "embeddings", { model: "gpt2", input: "Once", user: long }, /user.*900000/],
    ["a suffix of 900 kB", "completions", { prompt: "Once", max_tokens: 1, suffix: long }, /suffix/],
    ["an adapter of 900 kB", "completions", { prompt: "Once", chameleon: { adapter: long } }, /adapter/],
    ["a name of 900 kB", "adapters", { name: long, examples: [example, example] }, /name/],
    ["a key of logit_bias of 900 kB", "completions", { prompt: "Once", logit_bias: { [long]: 1 } }, /logit_bias/],
    ["a role of 900 kB", "chat/completions", { messages: [{ role: long, content: "Once" }] }, /role/],
    ["a format of 900 kB", "chat/completions", { ...chat, response_format: { type: long } }, /response_format/],
    ["400,000 modalities", "chat/completions", { ...chat, modalities: Array(400_000).fill(1) }, /modalities/],
    ["250,000 stops", "completions", { prompt: "Once", stop: Array(250_000).fill("a") }, /stop.*250000/],
    [
      "a prompt nested 300,000 deep",
      "completions",
      `{"prompt":${"[".repeat(300_000)}${"]".repeat(300_000)}}`,
      new RegExp(`nested 300001 levels deep, the maximum is ${limits.bodyNesting}\\b`),
    ],
  ];
  test.each(cases)("%s, /v1/%s", async (_, route, body, names, status = 400) => {
    const response = await edge.post(`/v1/${route}`, "owner", body);
    const text = await response.text();
    const shown = text.slice(0, 300);
    expect(response.status, shown).toBe(status);
    expect(text.length, shown).toBeLessThan(mostErrorBytes);
    expect(text).toMatch(names);
  });
});

test("60 models that do not exist leave the usage answerable and small", async () => {
  const models = 60;
  await Promise.all(
    Array.from({ length: models }, async (_, i) => {
      const model = `${String.fromCharCode(97 + (i % 26)).repeat(800_000)}${i}`;
      const body = { model, chameleon: { adapter: own }, prompt: "Once", max_tokens: 1 };
      await (await edge.post("/v1/completions", "counted", body)).text();
    }),
  );
  const good = await edge.post("/v1/completions", "counted", { prompt: "Once", max_tokens: 1 });
  expect(good.status, await good.text()).toBe(200);
  const usage = async () => {
    const response = await edge.get("/v1/usage", "counted");
    return { status: response.status, text: await response.text() };
  };
  await expect.poll(async () => (await usage()).text, patience).toMatch(/gpt2:auto|"code"/);
  const { status, text } = await usage();
  console.log(`usage after ${models} unknown models: ${status}, ${text.length} bytes`);
  expect(status, text.slice(0, 200)).toBe(200);
  expect(text.length).toBeLessThan(20_000);
});

test("guessed keys are refused by the network that they come from, however its zeros are written", async () => {
  // All in 2001:db8:0:7::/64 or 2001:db8::/64.
  const networks = [
    (i: number) => `2001:db8:0:7:${(i + 1).toString(16)}::1`,
    (i: number) => `2001:DB8:0:0:${(i + 1).toString(16)}::`,
  ];
  for (const address of networks) {
    let status = 0;
    for (let i = 0; i < 40; i++) {
      ({ status } = await edge.get("/v1/models", `guess-${i}`, { "cf-connecting-ip": address(i) }));
    }
    expect(status).toBe(429);
  }
});

test("a key for usage alone sees no adapter of its tenant", async () => {
  const seen = await edge.get("/v1/models", "owner");
  expect(await seen.text()).toContain(`gpt2:${own}`);
  const models = await edge.get("/v1/models", "accountant");
  expect(await models.text()).not.toContain(`gpt2:${own}`);
  for (const route of ["/v1/adapters", `/v1/adapters/${own}`, `/v1/models/gpt2:${own}`]) {
    const { status } = await edge.get(route, "accountant");
    expect([403, 404], route).toContain(status);
  }
});
