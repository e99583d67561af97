/**
 * Compares a tokenizer and chat template with those of Hugging Face's AutoTokenizer in JavaScript, which reads
 * tokenizer.json where we read vocab.json and merges.txt.
 */
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { ChatTemplate } from "../../../shared/tokenizer/chat-template.ts";
import { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import { nullIfMissing } from "../../files.ts";
import { trialConversations } from "../../training/trial-conversations.ts";
import type { AutoTokenizerIds, AutoTokenizerInput } from "./auto-tokenizer.ts";
import { runInThread } from "./killable-thread.ts";
import { oracleTexts } from "./oracle-texts.ts";

const comparedTexts = 1000;
/** A tokenizer of 50,000 entries takes 2 s and 100 MB. */
const threadLimits = { seconds: 120, megabytes: 1024 };
/** Characters of a text, and ids, shown in an error. */
const shownCharacters = 60;
const shownIds = 12;

const files = { tokenizer: "tokenizer.json", config: "tokenizer_config.json" };

/**
 * Throws an Error of one line that names the first text or conversation on which the two differ, with both lists of ids.
 * @param template null if the model has none
 */
export async function compareWithAutoTokenizer(
  folder: string,
  packed: TensorFile,
  template: string | null,
  now: Date,
): Promise<void> {
  const tokenizer = Tokenizer.fromTensors(packed);
  const texts = oracleTexts(comparedTexts);
  const scratch = await mkdtemp(join(tmpdir(), "tokenizer-"));
  const theirs = await runAutoTokenizer(folder, scratch, tokenizer, texts, template)
    .catch((cause: Error) => {
      throw new Error(`AutoTokenizer cannot read the tokenizer of ${folder}: ${oneLine(cause.message)}`, { cause });
    })
    .finally(() => rm(scratch, { recursive: true }));

  for (const [i, text] of texts.entries())
    requireSame(`the tokenizer of ${folder}`, text, tokenizer.encode(text), theirs.texts[i]);
  if (template === null) return;
  const ours = new ChatTemplate(template, tokenizer);
  // Transformers.js uses local time.
  const nowMs = now.getTime() - now.getTimezoneOffset() * 60_000;
  for (const [i, { name, messages }] of trialConversations.entries()) {
    requireSame(`the chat template of ${folder}`, name, idsOrNull(ours, messages, nowMs), theirs.conversations[i]);
  }
}

async function runAutoTokenizer(
  folder: string,
  scratch: string,
  tokenizer: Tokenizer,
  texts: string[],
  template: string | null,
): Promise<AutoTokenizerIds> {
  const own = join(scratch, "own");
  await mkdir(own);
  const special = tokenizer.decode([tokenizer.endOfTextId]);
  const configText = await readFile(join(folder, files.config), "utf8").catch(nullIfMissing);
  const config = JSON.parse(configText ?? "{}") as Record<string, unknown>;
  // Defaults of GPT-2's tokenizer class.
  const specials = { bos_token: special, eos_token: special, unk_token: special };
  await writeFile(
    join(own, files.config),
    JSON.stringify({ tokenizer_class: "GPT2Tokenizer", ...specials, ...config }),
  );
  const target = join(own, files.tokenizer);
  await copyFile(join(folder, files.tokenizer), target).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
    await writeFile(target, await tokenizerJson(folder, tokenizer));
  });
  const question: AutoTokenizerInput = {
    ...{ folder: own, texts, template },
    conversations: trialConversations.map(({ messages }) => messages),
  };
  return runInThread<AutoTokenizerIds>(new URL("./auto-tokenizer.ts", import.meta.url), question, threadLimits);
}

/** A tokenizer.json for a model without one: byte-level BPE over its vocabulary, like GPT-2's. */
async function tokenizerJson(folder: string, tokenizer: Tokenizer): Promise<string> {
  const merges = (await readFile(join(folder, "merges.txt"), "utf8")).split(/\r?\n/);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const content = tokenizer.decode([tokenizer.endOfTextId]);
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return JSON.stringify({
    version: "1.0",
    added_tokens: [{ id: tokenizer.endOfTextId, content, ...flags }],
    normalizer: null,
    ...{ pre_tokenizer: byteLevel, post_processor: byteLevel, decoder: byteLevel },
    model: {
      type: "BPE",
      ...{ dropout: null, unk_token: null, continuing_subword_prefix: "", end_of_word_suffix: "", fuse_unk: false },
      vocab: JSON.parse(await readFile(join(folder, "vocab.json"), "utf8")),
      merges: merges.filter((line) => line !== "" && !line.startsWith("#version")),
    },
  });
}

function idsOrNull(template: ChatTemplate, messages: Parameters<ChatTemplate["encode"]>[0], nowMs: number) {
  try {
    return template.encode(messages, nowMs);
  } catch {
    // The trial run has succeeded, so the template refuses this conversation.
    return null;
  }
}

function requireSame(what: string, text: string, ours: number[] | null, theirs: number[] | null): void {
  if (ours?.join() === theirs?.join()) return;
  const shown = JSON.stringify(text.slice(0, shownCharacters));
  throw new Error(
    `${what} differs from its AutoTokenizer's on ${shown}: [${idsOf(ours)}] here, [${idsOf(theirs)}] there`,
  );
}

function idsOf(ids: number[] | null): string {
  if (ids === null) return "refused";
  return ids.slice(0, shownIds).join() + (ids.length > shownIds ? `,… ${ids.length} in all` : "");
}

function oneLine(message: string): string {
  return message.split("\n")[0].slice(0, 200);
}
