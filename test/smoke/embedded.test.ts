/** What a newcomer gets: `npm start` with the embedded base, and its own sampling, answers a question in a chat. */
import OpenAI from "openai";
import { afterAll, expect, test } from "vitest";
import type { ClassifyResponse } from "../../shared/contracts/classify-response.ts";
import type { ChatResponse } from "../../shared/contracts/responses.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { startStack } from "../support/stack.ts";

const stack = await startStack({ MODEL_DIR: embeddedBase, WEIGHT_FORMAT: "int8" });
afterAll(() => stack.stop());

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
  const examples = {
    sports: "The striker scored twice in the second half as United won 3-1",
    business: "The central bank raised interest rates",
    science: "Researchers found a new planet orbiting a nearby star",
  };
  const labels = Object.keys(examples);
  const response = await stack.post("/v1/classify", { input: Object.values(examples), labels });
  const { data } = (await response.json()) as ClassifyResponse;
  expect(data.map(({ label }) => label)).toEqual(labels);
});

test("a question is answered by the passage that it retrieves, and by neither base nor memory without", async () => {
  const facts = {
    kettle:
      "The Brimwick kettle was invented by Tolvane Adric in the town of Pellworth. It boils water with a copper coil.",
    train:
      "The train to Marlow leaves from platform eleven at 6:42. Dogs travel free, bicycles need a ticket of their own.",
    ship: "The ship Meridian Lark carried forty tons of saffron from Qarth to Lisbon. Her captain was Ines Dovrall.",
  };
  const documents = Object.entries(facts).map(([name, fact]) => ({ name, text: fact }));
  expect((await stack.post("/v1/adapters", { name: "facts", documents })).status).toBe(201);
  const answerTo = async (content: string, chameleon: object) => {
    const asked = { messages: [{ role: "user", content }], max_tokens: 32, temperature: 0, chameleon };
    const { choices } = (await (await stack.post("/v1/chat/completions", asked)).json()) as ChatResponse;
    return { text: choices[0].message.content, retrieved: choices[0].chameleon!.retrieved };
  };
  const questions = [
    ["kettle", "Who invented the Brimwick kettle?", "Tolvane Adric"],
    ["train", "From which platform does the train to Marlow leave?", "eleven"],
    ["ship", "Who was the captain of the Meridian Lark?", "Dovrall"],
  ];
  for (const [name, question, fact] of questions) {
    const { text, retrieved } = await answerTo(question, { adapter: "facts", retrieve: 1 });
    expect(text).toContain(fact);
    const end = Buffer.byteLength(facts[name as keyof typeof facts]);
    expect(retrieved).toMatchObject([{ adapter: "facts", document: name, start: 0, end }]);
    for (const adapter of ["off", "facts"]) expect((await answerTo(question, { adapter })).text).not.toContain(fact);
  }
});
