/** Classification through the whole stack, compared with the logprobs that its completions report. */
import { expect, test } from "vitest";
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter, ChatResponse } from "../../shared/contracts/responses.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { DocumentSchemas } from "../support/answer-schemas.ts";
import { sharedStack } from "../support/shared-stack.ts";

const stack = await sharedStack("classify");
const classified = (body: object) => stack.ask<ClassifyResponse>("/v1/classify", body);
const refusedParam = async (body: object) => {
  const { error } = await stack.ask<ErrorEnvelope>("/v1/classify", body, { status: 400 });
  return error.param;
};
const isOurs = new DocumentSchemas().response("post", "/v1/classify", 200, "application/json");

test("each text gets a label, with probabilities that add up to 1 and do not depend on the others", async () => {
  const labels = ["refund", "delivery", "praise"];
  const input = ["Where is my parcel? It should have come on Monday.", "Lovely work, thank you all so much!"];
  const answer = await classified({ input, labels, chameleon: {} });
  expect(isOurs(answer), JSON.stringify(isOurs.errors)).toBe(true);
  for (const { probabilities, margin, label, chameleon } of answer.data) {
    const sorted = Object.values(probabilities).sort((a, b) => b - a);
    expect(sorted.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 6);
    expect(probabilities[label]).toBe(sorted[0]);
    expect(margin).toBeCloseTo(sorted[0] - sorted[1], 9);
    expect(chameleon?.mode).toBe("evidence");
  }
  expect(answer.usage.completion_tokens).toBe(2);
  for (const [i, one] of input.entries()) {
    const alone = await classified({ input: one, labels });
    expect(alone.data[0].probabilities).toEqual(answer.data[i].probabilities);
  }
});

test("labels that begin alike, or with another label, have probabilities that add up to 1", async () => {
  const messages = [{ role: "user", content: "Which month comes after June?" }];
  const labels = ["July", "June", "July 4", "July 5"];
  const { data, usage } = await classified({ input: messages, labels, model: "gpt2" });
  expect(data).toHaveLength(1);
  expect(Object.values(data[0].probabilities).reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 6);
  expect(usage.completion_tokens).toBeGreaterThan(1);
});

test.each(["gpt2", "gpt2:auto"])("labels' probabilities are proportional to a chat's, by %s", async (model) => {
  const messages = [{ role: "user", content: "Name one kind of citrus fruit." }];
  const told = await stack.ask<ChatResponse>("/v1/chat/completions", {
    ...{ model, messages, max_tokens: 1, temperature: 0, logprobs: true, top_logprobs: limits.chatLogprobs },
  });
  const top = told.choices[0].logprobs!.content![0].top_logprobs.filter(({ token }) => /^\w+$/.test(token)).slice(0, 4);
  expect(top.length).toBeGreaterThan(2);
  const { data } = await classified({ model, input: messages, labels: top.map(({ token }) => token) });
  const sum = top.reduce((total, { logprob }) => total + Math.exp(logprob), 0);
  const differences = top.map(({ token, logprob }) => Math.abs(data[0].probabilities[token] - Math.exp(logprob) / sum));
  console.log(`largest difference ${Math.max(...differences)}, at most 1e-4: a bias of 100 rounds float32 logits`);
  expect(Math.max(...differences)).toBeLessThan(1e-4);
});

test("an adapter of examples knows their labels, and gets texts in the examples' format", async () => {
  const pairs = ["cow", "rose", "horse", "tulip", "sheep", "daisy", "goat", "lily"].map((word, i) => ({
    text: `The ${word} stands in the field.`,
    label: i % 2 === 0 ? "animal" : "flower",
  }));
  const forms = {
    prompts: pairs.map(({ text, label }) => ({ prompt: text, completion: ` ${label}` })),
    chats: pairs.map(({ text, label }) => ({
      messages: [
        { role: "system", content: "Say what it is." },
        { role: "user", content: text },
        { role: "assistant", content: label },
      ],
    })),
  };
  for (const [name, examples] of Object.entries(forms)) {
    const { labels } = await stack.ask<Adapter>("/v1/adapters", { name, examples }, { status: 201 });
    expect(labels?.map((label) => label.trim())).toEqual(["animal", "flower"]);
    const model = `gpt2:${name}`;
    const { data } = await classified({ model, input: pairs[0].text });
    expect(Object.keys(data[0].probabilities)).toEqual(labels);
    // With or without the space before them, they are the labels that were taught.
    const spaced = labels!.map((label) => ` ${label.trim()}`);
    const trimmed = await classified({ model, input: pairs[0].text, labels: labels!.map((label) => label.trim()) });
    const other = await classified({ model, input: pairs[0].text, labels: spaced });
    for (const told of [trimmed, other]) {
      expect(Object.values(told.data[0].probabilities)).toEqual(Object.values(data[0].probabilities));
    }
    if (name === "chats") {
      const messages = forms.chats[0].messages.slice(0, 2);
      const asked = await classified({ model, input: messages, labels });
      expect(asked.data[0].probabilities).toEqual(data[0].probabilities);
    }
  }
  const memory = { name: "memory", documents: ["a text that is long enough to be known"] };
  await stack.ask("/v1/adapters", memory, { status: 201 });
  expect(await refusedParam({ model: "gpt2:memory", input: "a" })).toBe("labels");
});

test("labels taught with and without a space before them stay apart", async () => {
  const completions = ["animal", " animal", "flower", " flower"];
  const examples = ["cow", "horse", "rose", "tulip", "sheep", "goat", "daisy", "lily"].map((word, i) => ({
    prompt: `The ${word} stands in the field.`,
    completion: completions[i % 4],
  }));
  await stack.ask<Adapter>("/v1/adapters", { name: "spaces", examples }, { status: 201 });
  for (const labels of [undefined, completions]) {
    const { data } = await classified({ model: "gpt2:spaces", input: examples[0].prompt, labels });
    expect(Object.keys(data[0].probabilities).sort()).toEqual([...completions].sort());
  }
});

test.each([
  ["no labels", { input: "a", labels: ["x"] }, "labels"],
  ["a label twice", { input: "a", labels: ["x", "x"] }, "labels"],
  ["an empty label", { input: "a", labels: ["x", " "] }, "labels[1]"],
  ["no text", { input: [], labels: ["x", "y"] }, "input"],
  ["too many texts", { input: Array(limits.classifyInputs + 1).fill("a"), labels: ["x", "y"] }, "input"],
  ["too many branches", { input: "a", labels: [..."abcdefghijklmnopqrstuvwxyz"] }, "labels"],
])("%s are refused", async (_, body, param) => {
  expect(await refusedParam(body)).toBe(param);
});
