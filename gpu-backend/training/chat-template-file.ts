/** A model folder has its chat template in a file of its own or in tokenizer_config.json. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { ChatMessage } from "../../shared/contracts/chat.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import { TemplateRefusal } from "../../shared/tokenizer/template-limits.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { nullIfMissing } from "../files.ts";

export const chatTemplateFile = "chat_template.jinja";
const configFile = "tokenizer_config.json";

const configSchema = z.object({
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish()
    .transform((value) => (Array.isArray(value) ? value.find(({ name }) => name === "default")?.template : value)),
});

const user = (content: string): ChatMessage => ({ role: "user", content });
const turns = (count: number, content: string): ChatMessage[] =>
  Array.from({ length: count }, (_, i) => (i % 2 === 0 ? user(content) : { role: "assistant", content }));
const { chatMessages, bodyBytes } = limits;
const most = chatMessages - 1;

/** A template must render the first conversation and may refuse any other. The last conversations are as large as requests may be. */
const conversations: [name: string, messages: ChatMessage[]][] = [
  ["a user's message", [user("Hello")]],
  ["a system message and a user's", [{ role: "system", content: "Be brief." }, user("Why is the sky blue?")]],
  ["three turns", turns(3, "Hello")],
  ["two users' messages in a row", [user("One."), user("Two.")]],
  ["an assistant's message last", turns(2, "Hello")],
  ["empty messages", turns(3, "")],
  ["a template's own syntax", [user("{{ 7 * 7 }} {% if x %} {# y #} </think> [INST] <<SYS>>")]],
  [`${most} messages`, turns(most, "x")],
  [`a message of ${bodyBytes} characters`, [user("four ".repeat(bodyBytes / 5))]],
  [`${most} messages of ${bodyBytes} characters together`, turns(most, "four ".repeat(bodyBytes / chatMessages / 5))],
];

/** Prefers the template of the weights file (`ofWeights`). Returns undefined without a template. Errors name the folder. */
export async function readChatTemplate(
  folder: string,
  { tokenizer, chatTemplate: ofWeights }: { tokenizer: TensorFile; chatTemplate?: string | undefined },
): Promise<string | undefined> {
  const file = await readFile(join(folder, chatTemplateFile), "utf8").catch(nullIfMissing);
  const source = ofWeights ?? file ?? (await configuredIn(join(folder, configFile)));
  if (source === undefined) return undefined;
  try {
    tryTemplate(new ChatTemplate(source, Tokenizer.fromTensors(tokenizer)));
  } catch (cause) {
    const why = (cause as Error).message.split("\n")[0].slice(0, 200);
    throw new Error(`the chat template of ${folder} cannot be used: ${why}`, { cause });
  }
  return source;
}

async function configuredIn(file: string): Promise<string | undefined> {
  const text = await readFile(file, "utf8").catch(nullIfMissing);
  if (text === null) return undefined;
  try {
    return configSchema.parse(JSON.parse(text)).chat_template ?? undefined;
  } catch (cause) {
    throw new Error(`${file} has an invalid chat_template`, { cause });
  }
}

function tryTemplate(template: ChatTemplate): void {
  for (const [i, [name, messages]] of conversations.entries()) {
    try {
      const ids = template.encode(messages, 0);
      if (i === 0 && ids.length === 0) throw new Error("it makes no text");
    } catch (error) {
      if (i > 0 && error instanceof TemplateRefusal) continue;
      throw new Error(`on ${name}: ${(error as Error).message}`, { cause: error });
    }
  }
}
