/** Reads the chat template of a Hugging Face model folder: from its own file or from tokenizer_config.json. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { nullIfMissing } from "../bounded-file.ts";
import { runInThread } from "./killable-thread.ts";

export const chatTemplateFile = "chat_template.jinja";
const configFile = "tokenizer_config.json";

const configSchema = z.object({
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish()
    .transform((value) => (Array.isArray(value) ? value.find(({ name }) => name === "default")?.template : value)),
});

/** Limits of the trial's thread. Each rendering is bounded and takes less than a second; these are a second defence. */
const trialLimits = { seconds: 60, megabytes: 512 };

/**
 * Reads the template and renders the conversations of trial-conversations.ts with it, in a thread. Returns undefined if there
 * is none. Throws an Error of one line that names the folder if it cannot be used.
 */
export async function readChatTemplate(folder: string, tokenizer: TensorFile): Promise<string | undefined> {
  const file = await readFile(join(folder, chatTemplateFile), "utf8").catch(nullIfMissing);
  const source = file ?? (await configuredIn(join(folder, configFile)));
  if (source === undefined) return undefined;
  try {
    await runInThread(new URL("./template-trial.ts", import.meta.url), { source, tokenizer }, trialLimits);
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
