/**
 * Requests and answers of the running API, checked against its own document and OpenAI's published schemas: bodies, stream events,
 * errors.
 */
import { describe, expect, test } from "vitest";
import { operations } from "../../infra/openapi/operations.ts";
import { DocumentSchemas, PublishedSchemas } from "../support/answer-schemas.ts";
import { sharedStack } from "../support/shared-stack.ts";

const stack = await sharedStack("answers");
const published = await PublishedSchemas.read();
const ours = new DocumentSchemas();

interface Exchange {
  path: string;
  /** The path in the API's document, if `path` has a value in place of a parameter. */
  route?: string;
  method?: "GET" | "POST" | "DELETE" | "PUT";
  body?: object | string | FormData;
  headers?: Record<string, string>;
  status?: number;
}

/** Sends the request and checks the answer against both schemas. Returns its body, or the data of its events. */
async function exchange({ path, route = path, body, headers, status = 200, ...rest }: Exchange): Promise<unknown[]> {
  const method = rest.method ?? (body === undefined ? "GET" : "POST");
  const response = await fetch(stack.edge + path, {
    method,
    headers: {
      authorization: `Bearer ${stack.key}`,
      ...(!(body instanceof FormData) && { "content-type": "application/json" }),
      ...headers,
    },
    body: typeof body === "object" && !(body instanceof FormData) ? JSON.stringify(body) : body,
  });
  const text = await response.text();
  expect(response.status, text).toBe(status);
  expect(response.headers.get("x-request-id")).toMatch(/^req_/);
  expect(response.headers.get("server-timing")).toMatch(/^\w+;dur=\d+\.\d\d(, \w+;dur=\d+\.\d\d)*$/);
  const media = response.headers.get("content-type")!.split(";")[0];
  const isStream = media === "text/event-stream";
  const answers = isStream ? dataOf(text) : [JSON.parse(text)];
  expect(answers.length).toBeGreaterThan(0);
  const mine = ours.response(method.toLowerCase(), route, status, media);
  // OpenAI's description of embeddings does not cover base64.
  const isBase64 = typeof body === "object" && "encoding_format" in body && body.encoding_format === "base64";
  const theirs = isBase64 ? null : published.response(route, status, isStream);
  if (status >= 400) expect(theirs).not.toBeNull();
  const isAsked = typeof body === "object" && "chameleon" in body;
  if (!isAsked) expect(text).not.toContain('"chameleon"');
  for (const answer of answers) {
    for (const schema of [mine, theirs]) {
      if (schema && !schema(answer))
        expect.fail(`${JSON.stringify(schema.errors, null, 1)}\n${JSON.stringify(answer)}`);
    }
  }
  return answers;
}

function dataOf(text: string): unknown[] {
  const data = text.split("\n\n").flatMap((event) => /^(?:event: .*\n)?data: (.*)$/.exec(event)?.slice(1) ?? []);
  expect(data.pop()).toBe("[DONE]");
  return data.map((one) => JSON.parse(one));
}

const prompt = "If Tom has 5 apples and buys 3 more, how many é";
const messages = [
  { role: "system", content: "Answer briefly." },
  { role: "user", content: [{ type: "text", text: "What is an adapter?" }] },
];
const weights = [
  { id: "c0", weight: 0.5 },
  { id: "c1", weight: 1 },
];
const completions: Record<string, object> = {
  plain: { prompt, max_tokens: 6 },
  "with what answered": { prompt, n: 2, max_tokens: 2, chameleon: {} },
  "with every field": {
    ...{ prompt: [prompt, "=head1 NAME"], n: 2, max_tokens: 6, echo: true, logprobs: 3, seed: 1, stop: ["\n", "###"] },
    ...{ chameleon: { compare: true }, user: "someone", logit_bias: { 50: -100 }, top_k: 50, min_p: 0.01 },
    ...{ min_tokens: 2, ignore_eos: true, stop_token_ids: [7], repetition_penalty: 1.2 },
  },
  "of the base": { model: "gpt2", prompt: [1, 2, 3], max_tokens: 3, logprobs: 0 },
  "of nothing": { prompt, max_tokens: 0, echo: true, logprobs: 1 },
  "of listed experts": {
    ...{ prompt, max_tokens: 2, chameleon: { adapter: [{ id: "base" }, { id: "c1" }], evidence_tokens: 4 } },
  },
  "of fixed weights": { prompt, max_tokens: 2, chameleon: { adapter: weights } },
  "of the nearest centroid": { prompt, max_tokens: 2, chameleon: { adapter: "nearest" } },
};
const chats: Record<string, object> = {
  plain: { messages, max_completion_tokens: 6 },
  "with every field": {
    ...{ messages, n: 2, max_tokens: 6, logprobs: true, top_logprobs: 4, seed: 1, stop: "\n\n" },
    ...{ chameleon: { compare: true }, response_format: { type: "text" }, presence_penalty: 1 },
    ...{ min_tokens: 2, ignore_eos: true, stop_token_ids: [7], repetition_penalty: 1.2 },
  },
  "of the base": { model: "gpt2", messages, max_tokens: 3, logprobs: true },
};

const responses: Record<string, object> = {
  plain: { input: "What is an adapter?", max_output_tokens: 6 },
  "with every field": {
    ...{ input: messages, instructions: "Answer briefly.", max_output_tokens: 6, top_logprobs: 4, seed: 1, top_k: 9 },
    ...{ metadata: { a: "b" }, include: ["message.output_text.logprobs"], chameleon: { compare: true } },
    ...{ stop: "\n\n", store: false, text: { format: { type: "text" } }, tools: [], min_tokens: 2 },
  },
};

describe.each([
  ["/v1/completions", completions],
  ["/v1/chat/completions", chats],
  ["/v1/responses", responses],
])("%s", (path, bodies) => {
  test.each(Object.keys(bodies))("whole and streamed, %s", async (name) => {
    const body = bodies[name];
    const request = ours.request("post", path);
    expect(request(body), JSON.stringify(request.errors)).toBe(true);
    await exchange({ path, body });
    const events = await exchange({ path, body: { ...body, stream: true } });
    if (bodies === responses) {
      expect(events.at(-1)).toMatchObject({ type: "response.incomplete" });
      return;
    }
    const counted = await exchange({ path, body: { ...body, stream: true, stream_options: { include_usage: true } } });
    expect(counted.at(-1)).toMatchObject({ choices: [], usage: { total_tokens: expect.any(Number) } });
    expect(counted.length).toBeGreaterThan(events.length > 1 ? 1 : 0);
  });
});

test("embeddings, in both formats", async () => {
  for (const body of [{ input: prompt }, { input: [[1, 2], [3]], dimensions: 3 }, { input: ["a"], model: "gpt2" }]) {
    expect(ours.request("post", "/v1/embeddings")(body)).toBe(true);
    await exchange({ path: "/v1/embeddings", body });
    await exchange({ path: "/v1/embeddings", body: { ...body, encoding_format: "base64" } });
  }
});

test("models, centroids, assignments, usage and health", async () => {
  for (const path of ["/v1/models", "/v1/centroids", "/v1/usage", "/healthz", "/readyz"]) await exchange({ path });
  await exchange({ path: "/v1/models/gpt2:c0", route: "/v1/models/{id}" });
  await exchange({ path: "/v1/assign", body: { input: [prompt, "b"], top: 2 } });
});

test("adapters of one's own, and the model that comes with one", async () => {
  const route = "/v1/adapters/{name}";
  const examples = ["Whisk the eggs with the sugar.", "Fold in the flour, then bake it.", "Melt the butter."];
  const body = { name: "recipes", examples };
  expect(ours.request("post", "/v1/adapters")(body)).toBe(true);
  await exchange({ path: "/v1/adapters", body, status: 201 });
  await exchange({ path: "/v1/adapters" });
  await exchange({ path: "/v1/adapters/recipes", route });
  await exchange({ path: "/v1/models" });
  await exchange({ path: "/v1/models/gpt2:recipes", route: "/v1/models/{id}" });
  await exchange({ path: "/v1/completions", body: { model: "gpt2:recipes", prompt, max_tokens: 2 } });
  await exchange({ path: "/v1/adapters", body, status: 400 });
  await exchange({ path: "/v1/adapters/recipes", route, method: "DELETE" });
  await exchange({ path: "/v1/adapters/recipes", route, status: 404 });
});

test("the document's own examples", async () => {
  // Later examples use the adapter and the file that an example makes.
  let [adapter, file] = ["", ""];
  const lines = ["one", "two"].map((word) => JSON.stringify({ prompt: word, completion: " more" })).join("\n");
  for (const { method, path, request, status } of operations) {
    // Admin routes have another key and are tested in test/in-runtime/admin.test.ts.
    if (!request || path.startsWith("/admin/")) continue;
    // The examples name the embedded base, but this stack serves the small one.
    const body = JSON.parse(JSON.stringify(request.example).replaceAll("smollm2-135m", "gpt2"));
    if (path === "/v1/adapters") adapter = body.name;
    if (request.isForm) body.file = new File([lines], "topics.jsonl");
    if ("training_file" in body) body.training_file = file;
    const form = new FormData();
    for (const [name, value] of Object.entries<string | File>(request.isForm ? body : {})) form.set(name, value);
    const [answer] = await exchange({
      path: path.replace("{name}", adapter),
      route: path,
      method: method.toUpperCase() as "POST",
      body: request.isForm ? form : body,
      status,
    });
    if (request.isForm) file = (answer as { id: string }).id;
  }
});

const valid = { prompt, max_tokens: 1 };
const path = "/v1/completions";
test.each<[string, Exchange]>([
  ["bad JSON", { path, body: "{", status: 400 }],
  ["a prompt over the context", { path, body: { prompt: Array(600).fill(5) }, status: 400 }],
  ["no key", { path, body: valid, headers: { authorization: "" }, status: 401 }],
  ["a page of an unknown origin", { path, body: valid, headers: { origin: "https://elsewhere.example" }, status: 403 }],
  ["an unknown model", { path, body: { ...valid, model: "gpt5" }, status: 404 }],
  ["a body too large", { path, body: " ".repeat(2 ** 20 + 1), status: 413 }],
  ["another content type", { path, body: valid, headers: { "content-type": "text/plain" }, status: 415 }],
  ["a URL too long", { path: `/v1/usage?x=${"x".repeat(4096)}`, route: "/v1/usage", status: 414 }],
  ["a chat with an invalid tool", { path: "/v1/chat/completions", body: { messages, tools: [{}] }, status: 400 }],
  ["an unknown model's name", { path: "/v1/models/x", route: "/v1/models/{id}", status: 404 }],
  ["an unknown adapter's name", { path: "/v1/adapters/x", route: "/v1/adapters/{name}", status: 404 }],
  ["an invalid date", { path: "/v1/usage?from=x", route: "/v1/usage", status: 400 }],
])("the error of %s", async (_, request) => {
  await exchange(request);
});

describe("what the document's schemas refuse, the API refuses", () => {
  const asked = (chameleon: object) => ({ chameleon });
  const sent = (message: object) => ({ messages: [message] });
  const bad: Record<string, object[]> = {
    "/v1/completions": [
      ...[{ prompt: 5 }, { prompt: [] }, { prompt: [""] }, { prompt: [-1] }, { prompt: Array(33).fill("a") }],
      ...[{ n: 0 }, { n: 1.5 }, { n: 17 }, { temperature: 2.1 }, { top_p: -1 }, { logprobs: 6 }, { echo: "yes" }],
      ...[{ stop: ["1", "2", "3", "4", "5"] }, { stop: "" }, { max_tokens: "5" }, { stream_options: 1 }, { seed: 0.5 }],
      ...[{ compare: 1 }, { evidence_tokens: 0 }, { adaptor: "off" }].map(asked),
      ...[[], [{}], ["c1"], Array(6).fill({ id: "c1" }), [{ id: "c1", weight: -1 }]].map((adapter) =>
        asked({ adapter }),
      ),
      { logit_bias: [] },
    ],
    "/v1/chat/completions": [
      ...[{}, { messages: [] }, { messages: "hi" }, { messages: [{ role: "user" }] }, { messages: ["hi"] }],
      ...[
        { role: "robot", content: "" },
        { role: "user", content: [{ type: "image_url" }] },
      ].map(sent),
      ...[{ max_tokens: 0 }, { top_logprobs: 21 }, { logprobs: 1 }].map((field) => ({ messages, ...field })),
    ],
    "/v1/embeddings": [{}, { input: "" }, { input: "a", dimensions: 0 }, { input: "a", encoding_format: "int8" }],
    "/v1/assign": [{}, { input: [] }, { input: "a", top: 17 }],
    "/v1/adapters": [{}, { name: "UP", examples: ["a b c", "d e f"] }, { name: "a", examples: ["one"] }],
  };
  test.each(Object.keys(bad))("%s", async (path) => {
    for (const body of bad[path]) {
      expect(ours.request("post", path)(body), JSON.stringify(body)).toBe(false);
      await exchange({ path, body, status: 400 });
    }
  });
});
