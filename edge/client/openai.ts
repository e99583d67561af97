/** `import "@chameleon-edge/client"` adds the `chameleon` extension to the `openai` SDK's types. At run time, the SDK passes it through. */
import type {} from "openai";
import type {} from "openai/resources/chat/completions/completions";
import type {} from "openai/resources/completions";
import type {} from "openai/resources/responses/responses";
import type { ChameleonChoiceFields, ChameleonRequestFields } from "./extension.ts";

export type { ChameleonBlock, ChameleonRequest, Expert } from "./extension.ts";

declare module "openai/resources/completions" {
  interface CompletionCreateParamsBase extends ChameleonRequestFields {}
  interface CompletionChoice extends ChameleonChoiceFields {}
}

declare module "openai/resources/chat/completions/completions" {
  interface ChatCompletionCreateParamsBase extends ChameleonRequestFields {}
  namespace ChatCompletion {
    interface Choice extends ChameleonChoiceFields {}
  }
  namespace ChatCompletionChunk {
    interface Choice extends ChameleonChoiceFields {}
  }
}

declare module "openai/resources/responses/responses" {
  interface ResponseCreateParamsBase extends ChameleonRequestFields {}
  interface Response extends ChameleonChoiceFields {}
}
