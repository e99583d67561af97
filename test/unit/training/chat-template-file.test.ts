import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readChatTemplate } from "../../../gpu-backend/training/chat-template-file.ts";
import { byteAlphabet, packTokenizer } from "../../../shared/tokenizer/pack.ts";

const spellings = [...byteAlphabet(), "<|endoftext|>"];
const vocabulary = JSON.stringify(Object.fromEntries(spellings.map((spelling, id) => [spelling, id])));
const tokenizer = packTokenizer(vocabulary, "", 256);
const template = "{{ messages[0].content }}{{ eos_token }}";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "template-"));
});
afterEach(() => rm(folder, { recursive: true }));

const config = (value: object) => writeFile(path.join(folder, "tokenizer_config.json"), JSON.stringify(value));
const read = () => readChatTemplate(folder, tokenizer);

test("there is none without a file, or without a word of it", async () => {
  expect(await read()).toBeUndefined();
  await config({ bos_token: "<|endoftext|>", chat_template: null });
  expect(await read()).toBeUndefined();
});

test("it is what tokenizer_config.json says, of several the default", async () => {
  await config({ chat_template: template });
  expect(await read()).toBe(template);
  const several = [
    { name: "tool_use", template: "{{ tools }}" },
    { name: "default", template },
  ];
  await config({ chat_template: several });
  expect(await read()).toBe(template);
});

test("a file of its own goes first", async () => {
  await config({ chat_template: "{{ messages }}" });
  await writeFile(path.join(folder, "chat_template.jinja"), template);
  expect(await read()).toBe(template);
});

test.each([
  ["no Jinja", { chat_template: "{% if" }],
  ["one that refuses a greeting", { chat_template: "{{ raise_exception('never') }}" }],
  ["no text", { chat_template: 5 }],
])("refuses %s in one line that names the folder", async (_, value) => {
  await config(value);
  const message = await read().then(
    () => expect.fail("it was taken"),
    (error: Error) => error.message,
  );
  expect(message).toContain(folder);
  expect(message).not.toContain("\n");
});
