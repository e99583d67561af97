/** Everything once: what `npm start` runs answers a completion, whole and streamed, and serves the page and the API's document. */
import OpenAI from "openai";
import { afterAll, expect, test } from "vitest";
import { startStack } from "../support/stack.ts";

const stack = await startStack();
afterAll(() => stack.stop());

test("a completion goes through edge and backend, and its stream has the same text", async () => {
  const openai = new OpenAI({ baseURL: `${stack.edge}/v1`, apiKey: stack.key, maxRetries: 0 });
  const request = { model: "gpt2:auto", prompt: "It is a truth universally", max_tokens: 8, temperature: 0 };
  const whole = await openai.completions.create(request);
  expect(whole.usage?.completion_tokens).toBe(8);
  let streamed = "";
  for await (const { choices } of await openai.completions.create({ ...request, stream: true })) {
    for (const { text } of choices) streamed += text;
  }
  expect(streamed).toBe(whole.choices[0].text);
});

test.each(["/", "/docs", "/openapi.json", "/healthz"])("%s is served", async (path) => {
  const response = await fetch(stack.edge + path);
  expect(response.status).toBe(200);
  expect((await response.text()).length).toBeGreaterThan(0);
});
