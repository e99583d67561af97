/**
 * The thread that asks Hugging Face's own tokenizer and template engine, as AutoTokenizer of Transformers.js puts them
 * together: an AutoTokenizerInput in, AutoTokenizerIds out.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import type { ChatMessage } from "../../../shared/contracts/chat.ts";

export interface AutoTokenizerInput {
  /** Holds tokenizer.json and tokenizer_config.json. */
  folder: string;
  texts: string[];
  template: string | null;
  conversations: ChatMessage[][];
}

export interface AutoTokenizerIds {
  texts: number[][];
  /** null where the template refuses the conversation. */
  conversations: (number[] | null)[];
}

/** Variables of a chat template that tokenizer_config.json sets. */
const specialTokens = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

async function ask({ folder, texts, template, conversations }: AutoTokenizerInput): Promise<AutoTokenizerIds> {
  const [tokenizerJson, config] = await Promise.all(
    ["tokenizer.json", "tokenizer_config.json"].map(async (name) =>
      recordSchema.parse(JSON.parse(await readFile(join(folder, name), "utf8"))),
    ),
  );
  const tokenizer = new Tokenizer(tokenizerJson, config);
  const encode = (text: string) => tokenizer.encode(text, { add_special_tokens: false }).ids;
  const special = Object.fromEntries(
    specialTokens.flatMap((name) => (config[name] ? [[name, contentOf(config[name])]] : [])),
  );
  const chat = (messages: ChatMessage[]): number[] | null => {
    try {
      const context = { messages, add_generation_prompt: true, tools: null, documents: null, ...special };
      return encode(new Template(template!).render(context));
    } catch {
      return null;
    }
  };
  return { texts: texts.map(encode), conversations: template === null ? [] : conversations.map(chat) };
}

const recordSchema = z.record(z.string(), z.unknown());

/** A token is a string, or an object of the Python library with its flags. */
function contentOf(token: unknown): unknown {
  return typeof token === "object" && token !== null && "content" in token ? token.content : token;
}

parentPort!.postMessage(await ask(workerData));
