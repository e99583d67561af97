/** The chat template of a model's folder, as Hugging Face keeps it: in a file of its own or in tokenizer_config.json. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { runInThread } from "./killable-thread.ts";

export const chatTemplateFile = "chat_template.jinja";
const configFile = "tokenizer_config.json";

const configSchema = z.object({
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish()
    .transform((value) => (Array.isArray(value) ? value.find(({ name }) => name === "default")?.template : value)),
});

/** Every rendering of the trial is bounded, and takes less than a second; this is for what no bound foresees. */
const trialLimits = { seconds: 60, megabytes: 512 };

/**
 * Reads the template and tries it, in a thread, on the conversations of trial-conversations.ts. undefined where there is
 * none. Throws an Error of one line that names the folder, for one that cannot be used.
 */
export async function readChatTemplate(folder: string, tokenizer: TensorFile): Promise<string | undefined> {
  const file = await readIfThere(join(folder, chatTemplateFile));
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
  const text = await readIfThere(file);
  if (text === undefined) return undefined;
  try {
    return configSchema.parse(JSON.parse(text)).chat_template ?? undefined;
  } catch (cause) {
    throw new Error(`${file} does not say what chat_template is`, { cause });
  }
}

async function readIfThere(file: string): Promise<string | undefined> {
  return readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
}
