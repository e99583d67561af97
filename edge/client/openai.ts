/**
 * `import "chameleon-edge/client"` widens the types of the `openai` SDK by the `chameleon` extension of requests, answers,
 * chunks and choices. Nothing changes at run time: the SDK sends and returns fields that it does not know.
 */
import type {} from "openai";
import type {} from "openai/resources/chat/completions/completions";
import type {} from "openai/resources/completions";
import type { ChameleonAnswerFields, ChameleonRequestFields } from "./extension.ts";

export type { ChameleonBlock, ChameleonRequest, Expert } from "./extension.ts";

declare module "openai/resources/completions" {
  interface CompletionCreateParamsBase extends ChameleonRequestFields {}
  interface Completion extends ChameleonAnswerFields {}
  interface CompletionChoice extends ChameleonAnswerFields {}
}

declare module "openai/resources/chat/completions/completions" {
  interface ChatCompletionCreateParamsBase extends ChameleonRequestFields {}
  interface ChatCompletion extends ChameleonAnswerFields {}
  namespace ChatCompletion {
    interface Choice extends ChameleonAnswerFields {}
  }
  interface ChatCompletionChunk extends ChameleonAnswerFields {}
  namespace ChatCompletionChunk {
    interface Choice extends ChameleonAnswerFields {}
  }
}
