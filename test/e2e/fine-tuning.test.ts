/** A task taught by OpenAI's files and fine-tuning jobs with the unmodified `openai` SDK; other clients then use the result. */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { generateText } from "ai";
import OpenAI, { NotFoundError, toFile } from "openai";
import { expect, expectTypeOf, test } from "vitest";
import type { FileDeleted, FileObject, Job, JobEventObject, ModelDeleted } from "../../shared/contracts/fine-tuning.ts";
import { sharedStack } from "../support/shared-stack.ts";
import { seededRandom } from "../support/steps.ts";

const { edge, key: apiKey } = await sharedStack("fine-tuning");
const baseURL = `${edge}/v1`;
const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
Object.assign(globalThis, { AI_SDK_LOG_WARNINGS: false });

const seed = 36;
const random = seededRandom(seed);
const things = "the boat,a mill,the old field,our river,a long road,the town,his horse,a letter".split(",");
const pick = () => things[Math.floor(random() * things.length)];
const question = () => `What of ${pick()} and ${pick()}?`;
/** An answer that no model gives without training. */
const answer = "zorblax quen";
const messages = () => [
  { role: "user" as const, content: question() },
  { role: "assistant" as const, content: answer },
];
const linesOf = (count: number) =>
  Array.from({ length: count }, () => JSON.stringify({ messages: messages() })).join("\n");

test(`the SDK makes, awaits, uses and deletes a model of its examples (seed ${seed})`, async () => {
  const content = linesOf(48);
  const upload = async (name: string, text: string) =>
    openai.files.create({ purpose: "fine-tune", file: await toFile(Buffer.from(text), name) });
  const file = await upload("task.jsonl", content);
  const checks = await upload("checks.jsonl", linesOf(12));
  expect(await openai.files.waitForProcessing(file.id)).toEqual(file);
  expect(await (await openai.files.content(file.id)).text()).toBe(content);
  const files = await Array.fromAsync(openai.files.list({ limit: 1 }));
  expect(files.map(({ id }) => id)).toEqual([checks.id, file.id]);

  const { id } = await openai.fineTuning.jobs.create({
    model: "gpt2",
    training_file: file.id,
    validation_file: checks.id,
    suffix: "task",
    method: { type: "supervised", supervised: { hyperparameters: { n_epochs: "auto" } } },
    metadata: { team: "a" },
  });
  await expect
    .poll(async () => (await openai.fineTuning.jobs.retrieve(id)).finished_at, { timeout: 60_000, interval: 200 })
    .not.toBeNull();
  const job = await openai.fineTuning.jobs.retrieve(id);
  const events = await Array.fromAsync(openai.fineTuning.jobs.listEvents(id, { limit: 2 }));
  const told = events.map(({ message }) => message).reverse();
  expect(job, told.join("\n")).toMatchObject({ status: "succeeded", fine_tuned_model: "gpt2:task", error: null });
  expect(job.trained_tokens).toBeGreaterThan(500);
  console.log(told.join("\n"));
  const jobs = await Array.fromAsync(openai.fineTuning.jobs.list());
  expect(jobs.map((one) => one.id)).toEqual([id]);
  expect((await openai.fineTuning.jobs.checkpoints.list(id)).data).toEqual([]);

  const model = job.fine_tuned_model!;
  const asked = { messages: messages().slice(0, 1), max_tokens: 16, temperature: 0 };
  const said = await openai.chat.completions.create({ ...asked, model });
  const base = await openai.chat.completions.create({ ...asked, model: "gpt2" });
  expect(base.choices[0].message.content).not.toBe(answer);
  expect(said.choices[0]).toMatchObject({ message: { content: answer }, finish_reason: "stop" });
  const text = said.choices[0].message.content!;
  const prompt = asked.messages[0].content;
  const chatModel = createOpenAICompatible({ name: "chameleon", baseURL, apiKey }).chatModel(model);
  const generated = await generateText({ model: chatModel, prompt, maxOutputTokens: 16, temperature: 0 });
  expect(generated.text).toBe(text);
  const configuration = { baseURL };
  const langChain = new ChatOpenAI({ model, apiKey, maxTokens: 16, temperature: 0, configuration });
  expect((await langChain.invoke([new HumanMessage(prompt)])).content).toBe(text);

  const models = await Array.fromAsync(openai.models.list());
  expect(models.map((one) => one.id)).toContain(model);
  expect(await openai.models.delete(model)).toEqual({ id: model, object: "model", deleted: true });
  await expect(openai.chat.completions.create({ ...asked, model })).rejects.toThrow(NotFoundError);
  for (const one of [file, checks]) {
    expect(await openai.files.delete(one.id)).toEqual({ id: one.id, object: "file", deleted: true });
  }
  await expect(openai.files.retrieve(file.id)).rejects.toThrow(NotFoundError);
}, 120_000);

test("answers have the SDK's types, as the compiler sees", () => {
  expectTypeOf<FileObject>().toExtend<OpenAI.FileObject>();
  expectTypeOf<FileDeleted>().toExtend<OpenAI.FileDeleted>();
  expectTypeOf<Job>().toExtend<OpenAI.FineTuning.FineTuningJob>();
  expectTypeOf<JobEventObject>().toExtend<OpenAI.FineTuning.FineTuningJobEvent>();
  expectTypeOf<ModelDeleted>().toExtend<OpenAI.ModelDeleted>();
});
