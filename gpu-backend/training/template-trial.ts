/** The thread that tries a chat template: `{ source, tokenizer }` in, a ThreadAnswer out. */
import { parentPort, workerData } from "node:worker_threads";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import { TemplateRefusal } from "../../shared/tokenizer/template-limits.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { ThreadAnswer } from "./killable-thread.ts";
import { largestConversations, trialConversations } from "./trial-conversations.ts";

const { source, tokenizer } = workerData as { source: string; tokenizer: TensorFile };

parentPort!.postMessage(tried());

function tried(): ThreadAnswer<null> {
  let template: ChatTemplate;
  try {
    template = new ChatTemplate(source, Tokenizer.fromTensors(tokenizer));
  } catch (error) {
    return { ok: false, message: (error as Error).message };
  }
  for (const [i, { name, messages }] of [...trialConversations, ...largestConversations].entries()) {
    try {
      // Any time will do: no template's text may depend on it in length.
      const ids = template.encode(messages, 0);
      if (i === 0 && ids.length === 0) return { ok: false, message: `it makes no text of ${name}` };
    } catch (error) {
      const mayRefuse = i > 0 && error instanceof TemplateRefusal;
      if (!mayRefuse) return { ok: false, message: `on ${name}: ${(error as Error).message}` };
    }
  }
  return { ok: true, result: null };
}
