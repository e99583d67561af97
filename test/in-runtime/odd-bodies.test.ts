/** Bodies within their size limit whose shape is extreme: deep nesting, or a long list in a short field. */
import { describe, expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import { errorOf, expectError } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { testApp } from "./harness.ts";

const chat = { messages: [{ role: "user", content: "a" }], max_tokens: 1 };
const bodies: Record<string, object> = {
  "/v1/completions": { prompt: "a", max_tokens: 1 },
  "/v1/chat/completions": chat,
  "/v1/embeddings": { input: "a" },
  "/v1/assign": { input: "a" },
  "/v1/adapters": { name: "mine", examples: ["a", "b"] },
};
const fields = [
  ...["prompt", "input", "messages", "examples", "name", "model", "stop", "seed", "n", "user", "stream_options"],
  ...["modalities", "tool_choice", "tools", "functions", "function_call", "response_format", "audio"],
  ...["web_search_options", "logit_bias", "metadata", "chameleon", "suffix", "encoding_format", "unknown"],
];

function bodyWith(body: object, field: string, value: string): string {
  return JSON.stringify({ ...body, [field]: "VALUE" }).replace('"VALUE"', () => value);
}

const completeWith = (value: string) =>
  testApp().post("/v1/completions", bodyWith(bodies["/v1/completions"], "unknown", value));

const depth = 250_000;
const nested: Record<string, string> = {
  lists: "[".repeat(depth) + "]".repeat(depth),
  objects: `${'{"a":'.repeat(depth / 2)}1${"}".repeat(depth / 2)}`,
};

describe.each(Object.entries(bodies))("POST %s", (path, body) => {
  test.each(Object.keys(nested))("refuses %s that are nested deep, in whatever field", async (kind) => {
    for (const field of fields) {
      const error = await errorOf(testApp().post(path, bodyWith(body, field, nested[kind])));
      expect([field, error.status, error.message]).toEqual([field, 400, expect.any(String)]);
      expect(error.message).toContain(String(limits.bodyNesting));
      expect(error.message).toMatch(kind === "lists" ? /\b250001\b/ : /\b125001\b/);
    }
  });

  // More values than a call may have arguments: about 125,000 fill the stack.
  const long: Record<string, string> = {
    numbers: `[${Array(140_000).fill(1).join()}]`,
    texts: `[${Array(140_000).fill('""').join()}]`,
    lists: `[${Array(140_000).fill("[]").join()}]`,
    entries: `{${Array.from({ length: 20_000 }, (_, i) => `"k${i}":""`).join()}}`,
    characters: JSON.stringify("x".repeat(900_000)),
  };
  test.each(Object.keys(long))("answers a field of very many %s with a 4xx, or ignores the field", async (kind) => {
    backendAnswers(({ id }) => saying(id, "b"));
    for (const field of fields) {
      // Any other field would leave the body valid and make an adapter.
      if (path === "/v1/adapters" && !(field in body)) continue;
      const response = await testApp().post(path, bodyWith(body, field, long[kind]));
      expect([field, response.status]).toEqual([field, expect.toSatisfy((status: number) => status < 500)]);
      if (response.status < 400) continue;
      const { message } = await errorOf(response);
      expect([field, message.length]).toEqual([field, expect.toSatisfy((length: number) => length < 300)]);
    }
  });
});

/** Strings of digits whose hashes in V8 collide. */
const colliding = (count: number) => Array.from({ length: count }, (_, i) => String(77 + i * 32_768));

describe("strings of digits", () => {
  const most = limits.digitStrings;
  const escaped = (digits: string) => `\\u003${digits}`;
  const spellings: [string, (digits: string) => string][] = [
    ["entries of a list", (digits) => `"${digits}"`],
    ["escaped first digits", (digits) => `"${escaped(digits)}"`],
    ["escaped last digits", (digits) => `"${digits.slice(0, -1)}${escaped(digits.slice(-1))}"`],
    ["lists of one", (digits) => `[ "${digits}" ]`],
    ["keys", (digits) => `{"${digits}":1}`],
  ];

  test.each(Object.entries(bodies))(
    "beyond the limit are refused by POST %s, in whatever field",
    async (path, body) => {
      for (const field of fields) {
        const value = JSON.stringify(colliding(10_000));
        const error = await errorOf(testApp().post(path, bodyWith(body, field, value)));
        expect([field, error.status]).toEqual([field, 400]);
        expect(error.message).toMatch(new RegExp(`\\b10000 strings of 1 to 10 digits, the maximum is ${most}\\b`));
      }
    },
  );

  test.each(spellings)("count as %s", async (_, write) => {
    backendAnswers(({ id }) => saying(id, "b"));
    const send = (count: number) => completeWith(`[${colliding(count).map(write)}]`);
    await expectError(send(most + 1), { status: 400, mentions: `${most + 1} strings` });
    expect((await send(most)).status).toBe(200);
  });

  test.each([["1 2"], ["12a"], ["12345678901"], ["1,2"], ["\\n1"], ["-1"]])("do not include %j", async (text) => {
    backendAnswers(({ id }) => saying(id, "b"));
    expect((await completeWith(JSON.stringify(Array(most + 1).fill(text)))).status).toBe(200);
  });
});

test("nesting is counted outside strings only, and accepted up to the limit", async () => {
  backendAnswers(({ id }) => saying(id, "b"));
  const levels = (count: number) => "[".repeat(count) + "]".repeat(count);
  const passing = [
    levels(limits.bodyNesting - 1),
    JSON.stringify(levels(100)),
    JSON.stringify(`\\"${levels(100)}`),
    JSON.stringify(`${levels(100)}\\\\`),
    `[${Array(100).fill("[]").join()}]`,
  ];
  for (const value of passing) expect([value, (await completeWith(value)).status]).toEqual([value, 200]);
  const refused = completeWith(`["\\\\",${levels(limits.bodyNesting - 1)}]`);
  await expectError(refused, { status: 400, mentions: `${limits.bodyNesting + 1} levels` });
});

test.each([
  ["modalities", { ...chat, modalities: Array(400_000).fill(1) }, ["400000", String(limits.modalities)]],
  ["modalities[1]", { ...chat, modalities: ["text", 1] }, ["modalities[1]", "is 1"]],
  ["modalities", { ...chat, modalities: "text" }, ["a string"]],
  ["response_format", { ...chat, response_format: Array(400_000).fill(1) }, ["a list", "object"]],
  ["response_format", { ...chat, response_format: { type: 1 } }, ["1", "json_schema"]],
])("%s is refused by limit and value", async (param, body, mentions) => {
  await expectError(testApp().post("/v1/chat/completions", body), { status: 400, param, mentions });
});

test("logit_bias with too many entries is refused by limit and value, before its values are looked at", async () => {
  const logit_bias = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [i, ""]));
  const mentions = [1000, limits.logitBiasEntries].map(String);
  await expectError(testApp().complete({ prompt: "a", logit_bias }), { status: 400, param: "logit_bias", mentions });
});
