/** What a newcomer gets: `npm start` with the embedded base, and its own sampling, answers a question in a chat. */
import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { type Stack, startStack } from "../support/stack.ts";

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({ MODEL_DIR: embeddedBase, WEIGHT_FORMAT: "exact" });
}, 120_000);
afterAll(() => stack?.stop());

test("the capital of France is Paris", async () => {
  const openai = new OpenAI({ baseURL: `${stack.edge}/v1`, apiKey: stack.key, maxRetries: 0 });
  const { choices } = await openai.chat.completions.create({
    model: "smollm2-135m:auto",
    messages: [{ role: "user", content: "What is the capital of France?" }],
  });
  expect(choices[0].message.content).toContain("Paris");
  expect(choices[0].finish_reason).toBe("stop");
});

test("a text gets the label that fits", async () => {
  const response = await fetch(`${stack.edge}/v1/classify`, {
    method: "POST",
    headers: { authorization: `Bearer ${stack.key}`, "content-type": "application/json" },
    body: JSON.stringify({
      input: [
        "The striker scored twice in the second half as United won 3-1",
        "The central bank raised interest rates",
        "Researchers found a new planet orbiting a nearby star",
      ],
      labels: ["sports", "business", "science"],
    }),
  });
  const { data } = (await response.json()) as ClassifyResponse;
  expect(data.map(({ label }) => label)).toEqual(["sports", "business", "science"]);
});
