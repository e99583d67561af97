/** POST /v1/responses: a chat in the shapes of OpenAI's Responses API. Nothing is stored. */
import { responseRequestSchema } from "../../shared/contracts/response-request.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { generationOf, planChat } from "../plan/chat.ts";
import { readBody } from "./body.ts";
import { answerFromCell, planned } from "./completions.ts";
import type { RouteHandler } from "./dependencies.ts";

export const responses: RouteHandler = async (c, dependencies) => {
  dependencies.wakeCell(c.get("access").tenant, c.get("region"));
  const { conversation, chat, settings, query } = await readBody(c, dependencies, responseRequestSchema);
  const { plan, artifacts } = await planned(c, dependencies, chat, (set, caller) =>
    planChat(conversation, generationOf(chat, set), set, caller, "input"),
  );
  const { temperature, top_p } = samplingWith(plan.choices[0].sequence.sampling);
  return answerFromCell(c, dependencies, {
    ...{ request: generationOf(chat, artifacts), plan, artifacts, form: "response" },
    settings: { ...settings, temperature, top_p, query },
  });
};
