/** POST /v1/completions. */
import type { Handler } from "hono";
import { completionRequestSchema } from "../../shared/contracts/openai.ts";
import { planCompletion } from "../completions/plan.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { readBody } from "../middleware/body.ts";
import { answer, callerOf } from "./answer.ts";

export function completions(dependencies: Dependencies): Handler<AppEnvironment> {
  return async (c) => {
    dependencies.wakeCell(c.get("tenant"), c.get("region"));
    const request = await readBody(c, dependencies, completionRequestSchema);
    const artifacts = await dependencies.artifacts();
    const plan = planCompletion(request, artifacts, await callerOf(c, dependencies, request, artifacts));
    return answer(c, dependencies, { request, plan, artifacts, form: "completion" });
  };
}
