/** POST /v1/chat/completions: a completion of the prompt that the model's chat template makes of the conversation. */
import type { Handler } from "hono";
import { chatRequestSchema } from "../../shared/contracts/chat.ts";
import { generationOf, planChat } from "../completions/chat.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { readBody } from "../middleware/body.ts";
import { answer, callerOf } from "./answer.ts";

export function chatCompletions(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    dependencies.wakeCell(c.get("tenant"), c.get("region"));
    const { messages, ...chat } = await readBody(c, dependencies, chatRequestSchema);
    const artifacts = await dependencies.artifacts();
    const request = generationOf(chat, artifacts);
    const plan = planChat(messages, request, artifacts, await callerOf(c, dependencies, request, artifacts));
    return answer(c, dependencies, { request, plan, artifacts, form: "chat" });
  };
}
