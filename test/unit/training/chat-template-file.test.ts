import { writeFile } from "node:fs/promises";
import path from "node:path";
import { beforeEach, expect, test } from "vitest";
import { readChatTemplate } from "../../../gpu-backend/training/chat-template-file.ts";
import { byteAlphabet } from "../../../shared/tokenizer/pack.ts";
import { templateLimits } from "../../../shared/tokenizer/template-limits.ts";
import { packGpt2 } from "../../support/gpt2-tokenizer.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const tokenizer = packGpt2({ pieces: [...byteAlphabet(), "<|endoftext|>"], merges: [], endOfTextId: 256 });
const template = "{{ messages[0].content }}{{ eos_token }}";

let folder: string;
beforeEach(() => {
  folder = temporaryFolder();
});

const config = (value: object) => writeFile(path.join(folder, "tokenizer_config.json"), JSON.stringify(value));
const read = () => readChatTemplate(folder, { tokenizer: tokenizer });

test("the template is what tokenizer_config.json says, of several the default; a file of its own goes first", async () => {
  await config({ chat_template: template });
  expect(await read()).toBe(template);
  const tools = { name: "tool_use", template: "{{ tools }}" };
  await config({ chat_template: [tools, { name: "default", template }] });
  expect(await read()).toBe(template);
  await writeFile(path.join(folder, "chat_template.jinja"), "{{ messages }}");
  expect(await read()).toBe("{{ messages }}");
});

test("the largest conversation is tried too", async () => {
  const [begin, end] = ["{% for one in messages %}", "{% endfor %}"];
  await config({ chat_template: `${begin.repeat(3)}${end.repeat(3)}x` });
  await expect(read()).rejects.toThrow(
    `on 255 messages: the chat template takes more than ${templateLimits.steps} steps`,
  );
});

const silent = "{% if messages|length > 1 %}x{% endif %}";
const withTools = "{{ messages[0].content }}{% if messages[0].role == 'system' %}{{ tools() }}{% endif %}";
const long = "x".repeat(templateLimits.sourceCharacters + 1);
test.each<[string, unknown, string]>([
  ["no Jinja", "{% if", ""],
  ["one that refuses a greeting", "{{ raise_exception('never') }}", "on a user's message: never"],
  ["one that makes nothing of a greeting", silent, "on a user's message: it makes no text"],
  ["one that fails on a system message", withTools, "on a system message and a user's"],
  ["a list without end", "{{ range(2000000000) }}", "makes 2000000000 list items"],
  ["one that is too long", long, `the maximum is ${templateLimits.sourceCharacters}`],
  ["no text", 5, "invalid chat_template"],
])("refuses %s in one line that names the folder and why", async (_, template, why) => {
  await config({ chat_template: template });
  const { message } = await read().then(
    () => expect.fail("it was taken"),
    (error: Error) => error,
  );
  expect(message).toContain(folder);
  expect(message).toContain(why);
  expect(message).not.toContain("\n");
});
