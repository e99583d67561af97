/** POST /v1/completions and POST /v1/chat/completions: plans the request and sends the plan to the tenant's cell, which answers. */
import type { Context } from "hono";
import { chatRequestSchema } from "../../shared/contracts/chat.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { completionRequestSchema } from "../../shared/contracts/openai.ts";
import { ServiceError } from "../../shared/errors.ts";
import { forms } from "../answer/forms.ts";
import { maxTokensOf, refuseManyLogprobs } from "../answer/token-count.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { type CellRequest, cellRequestVersion, interrupted } from "../cell/cell-request.ts";
import { NotTaken } from "../dispatch/dispatcher.ts";
import { generationOf, planChat } from "../plan/chat.ts";
import { type Caller, type GenerationRequest, type Plan, planCompletion } from "../plan/plan.ts";
import { pause } from "../platform/clock.ts";
import { assignMsField } from "../platform/edge-metrics.ts";
import { readBody } from "./body.ts";
import type { AppEnvironment, Dependencies, RouteHandler } from "./dependencies.ts";

/** Milliseconds within which every choice must start; otherwise the request ends in deadline_exceeded. */
const deadlineHeader = "x-deadline-ms";

/** Time within which a cell settles a request whose client has disconnected, in milliseconds. */
const settlementGraceMs = 1000;

export const completions: RouteHandler = async (c, dependencies) => {
  dependencies.wakeCell(c.get("access").tenant, c.get("region"));
  const request = await readBody(c, dependencies, completionRequestSchema);
  const artifacts = await dependencies.artifacts();
  const plan = await planCompletion(request, artifacts, await callerOf(c, dependencies, request, artifacts));
  return answerFromCell(c, dependencies, { request, plan, artifacts, form: "completion" });
};

export const chatCompletions: RouteHandler = async (c, dependencies) => {
  dependencies.wakeCell(c.get("access").tenant, c.get("region"));
  const { messages, ...chat } = await readBody(c, dependencies, chatRequestSchema);
  const artifacts = await dependencies.artifacts();
  const request = generationOf(chat, artifacts);
  const plan = await planChat(messages, request, artifacts, await callerOf(c, dependencies, request, artifacts));
  return answerFromCell(c, dependencies, { request, plan, artifacts, form: "chat" });
};

interface Generation {
  request: GenerationRequest & { stream: boolean; stream_options: { include_usage: boolean } | null };
  plan: Plan;
  artifacts: Artifacts;
  form: CellRequest["form"];
}

/** Throws adapter_outdated, or invalid_request for the deadline's header. */
export async function callerOf(
  c: Context<AppEnvironment>,
  dependencies: Dependencies,
  request: Pick<GenerationRequest, "model" | "chameleon">,
  artifacts: Artifacts,
): Promise<Caller> {
  const access = c.get("access");
  const own = await dependencies.adapters.named(access, request.model, request.chameleon.adapter, artifacts);
  const deadlineMs = deadlineOf(c.req.header(deadlineHeader));
  const { randomSeed, now } = dependencies;
  const [requestId, traceparent] = [c.get("requestId"), c.get("traceparent")];
  const nearest = (embeddings: Float32Array[]) =>
    dependencies.adapters.nearest(access, embeddings, artifacts.manifestHash);
  return { requestId, tenant: access.tenant, own, nearest, deadlineMs, traceparent, randomSeed: randomSeed(), now };
}

function deadlineOf(header: string | undefined): number | null {
  if (header === undefined) return null;
  const deadlineMs = /^\d{1,9}$/.test(header) ? Number(header) : 0;
  if (deadlineMs >= 1 && deadlineMs <= limits.deadlineMs) return deadlineMs;
  const shown = JSON.stringify(header.slice(0, 40));
  const message = `The header ${deadlineHeader} is ${shown}; it must be milliseconds, 1 to ${limits.deadlineMs}.`;
  throw new ServiceError("invalid_request", message, { param: deadlineHeader });
}

/** Throws a ServiceError if the answer fails before it begins. */
export async function answerFromCell(
  c: Context<AppEnvironment>,
  dependencies: Dependencies,
  { request, plan, artifacts, form }: Generation,
): Promise<Response> {
  const { signal } = c.req.raw;
  const model = request.model ?? `${artifacts.manifest.model.servedAs}:auto`;
  const options = {
    echo: request.echo,
    logprobs: request.logprobs,
    compare: request.chameleon.compare,
    sources: request.chameleon.sources,
    withBlock: request.withBlock,
  };
  if (!request.stream) refuseManyLogprobs(plan, { form, ...options });
  const admission = await c.get("admission").reserve(maxTokensOf(plan.choices));
  Object.assign(c.get("attributes"), {
    "gen_ai.request.model": model.slice(0, 80),
    "gen_ai.usage.input_tokens": plan.promptTokens,
    "chameleon.choices": plan.choices.length,
    "chameleon.centroid": plan.choices[0].assignment.centroid.id,
    [assignMsField]: plan.assignMs,
  });
  const cellRequest: CellRequest = {
    version: cellRequestVersion,
    form,
    envelope: {
      id: c.get("requestId").replace(/^req_/, forms[form].idPrefix),
      created: Math.floor(dependencies.now() / 1000),
      model,
      fingerprint: `fp_${plan.manifestHash.slice(0, 12)}`,
    },
    plan,
    options,
    stream: request.stream,
    includeUsage: request.stream_options?.include_usage ?? false,
    heartbeatMs: dependencies.heartbeatMs,
    admitted: admission.request,
  };
  /** A cell that has the request settles it first, with its use. If no cell has it, this settles it. */
  const settleLater = () => {
    dependencies.background(pause(settlementGraceMs).then(() => admission.settle([])));
  };
  try {
    const { response, completed } = await dependencies.cells(cellRequest, c.get("region"), signal);
    if (completed !== null) {
      const end = completed.then(
        () => null,
        (error: ServiceError) => {
          if (error.kind === "cancelled") {
            settleLater();
            return "the client went away";
          }
          admission.settle([]);
          dependencies.log(c.get("requestId"), error);
          return "the answer broke off";
        },
      );
      c.set("end", end);
      dependencies.background(end.then(() => undefined));
    }
    return response;
  } catch (thrown) {
    if (signal.aborted) {
      settleLater();
      throw new ServiceError("cancelled", "The client disconnected.", { cause: thrown });
    }
    // A cell settles what it has begun. One that did not take the request has not, and a lost one cannot.
    if (!(thrown instanceof ServiceError) || thrown instanceof NotTaken) admission.settle([]);
    throw thrown instanceof ServiceError ? thrown : interrupted(thrown);
  }
}
