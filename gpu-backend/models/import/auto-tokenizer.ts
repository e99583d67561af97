/** The thread that asks Transformers.js: the files of a tokenizer and texts in, token ids out, as a ThreadAnswer. */
import { parentPort, workerData } from "node:worker_threads";
import { AutoTokenizer, env } from "@huggingface/transformers";
import type { ChatMessage } from "../../../shared/contracts/chat.ts";
import type { ThreadAnswer } from "../../training/killable-thread.ts";

export interface AutoTokenizerQuestion {
  /** `<parent>/<name>` holds tokenizer.json and tokenizer_config.json. */
  parent: string;
  name: string;
  texts: string[];
  template: string | null;
  conversations: ChatMessage[][];
}

export interface AutoTokenizerIds {
  texts: number[][];
  /** null where the template refuses the conversation. */
  conversations: (number[] | null)[];
}

async function ask({ parent, name, texts, template, conversations }: AutoTokenizerQuestion): Promise<AutoTokenizerIds> {
  env.allowRemoteModels = false;
  env.localModelPath = parent;
  const tokenizer = await AutoTokenizer.from_pretrained(name, { local_files_only: true });
  const chat = (messages: ChatMessage[]): number[] | null => {
    try {
      const options = {
        chat_template: template!,
        add_generation_prompt: true,
        return_tensor: false,
        return_dict: false,
      };
      return tokenizer.apply_chat_template(messages, options) as number[];
    } catch {
      return null;
    }
  };
  return {
    texts: texts.map((text) => tokenizer.encode(text, { add_special_tokens: false })),
    conversations: template === null ? [] : conversations.map(chat),
  };
}

const answer: ThreadAnswer<AutoTokenizerIds> = await ask(workerData).then(
  (result) => ({ ok: true as const, result }),
  (error: Error) => ({ ok: false as const, message: error.message }),
);
parentPort!.postMessage(answer);
