/** POST /v1/completions and POST /v1/chat/completions: plans a request and sends it to the tenant's cell. */
import { chatRequestSchema } from "../../shared/contracts/chat.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { completionRequestSchema } from "../../shared/contracts/openai.ts";
import type { ResponseSettings } from "../../shared/contracts/response-object.ts";
import { ServiceError } from "../../shared/errors.ts";
import { fnv1a } from "../../shared/math/fnv1a.ts";
import { forms } from "../answer/forms.ts";
import { maxTokensOf, refuseManyLogprobs } from "../answer/token-count.ts";
import type { Artifacts } from "../artifacts/artifacts.ts";
import { type CellRequest, cellRequestVersion, interrupted } from "../cell/cell-request.ts";
import { NotTaken } from "../dispatch/dispatcher.ts";
import { generationOf, planChat } from "../plan/chat.ts";
import { type Caller, type GenerationRequest, type Plan, planCompletion } from "../plan/plan.ts";
import { pause } from "../platform/clock.ts";
import { assignMsField } from "../platform/edge-metrics.ts";
import { keyIn } from "../tenants/ledger-store.ts";
import { type NamedAdapters, outdated, requireMade } from "../tenants/own-adapters.ts";
import { readBody } from "./body.ts";
import type { AppContext, Dependencies, RouteHandler } from "./dependencies.ts";
import { resumptionOf } from "./idempotency.ts";

/** Request header: milliseconds until every choice must have begun. */
const deadlineHeader = "x-deadline-ms";

/** Time that a cell has to settle a request whose client has disconnected. */
const settlementGraceMs = 1000;

export const completions: RouteHandler = async (c, dependencies) => {
  dependencies.wakeCell(c.get("access").tenant, c.get("region"));
  const request = await readBody(c, dependencies, completionRequestSchema);
  const { plan, artifacts } = await planned(c, dependencies, request, (set, caller) =>
    planCompletion(request, set, caller),
  );
  return answerFromCell(c, dependencies, { request, plan, artifacts, form: "completion" });
};

export const chatCompletions: RouteHandler = async (c, dependencies) => {
  dependencies.wakeCell(c.get("access").tenant, c.get("region"));
  const { messages, toolsText, ...chat } = await readBody(c, dependencies, chatRequestSchema);
  const { plan, artifacts } = await planned(c, dependencies, chat, (set, caller) =>
    planChat({ messages, toolsText }, generationOf(chat, set), set, caller),
  );
  const request = generationOf(chat, artifacts);
  return answerFromCell(c, dependencies, { request, plan, artifacts, form: "chat" });
};

interface Generation {
  request: GenerationRequest & { stream: boolean; stream_options: { include_usage: boolean } | null };
  plan: Plan;
  artifacts: Artifacts;
  form: CellRequest["form"];
  settings?: ResponseSettings;
}

/** Maximum number of new plans for a request while the tenant's adapters change to another set. */
const maxReplans = 2;

/**
 * Plans a request with the set that its adapters were made for.
 * Throws backend_unavailable, adapter_outdated or invalid_request if a named adapter cannot answer; invalid_request for a wrong deadline.
 */
export async function planned<T>(
  c: AppContext,
  dependencies: Dependencies,
  { model, chameleon }: Pick<GenerationRequest, "model" | "chameleon">,
  plan: (artifacts: Artifacts, caller: Caller) => Promise<T>,
): Promise<{ plan: T; artifacts: Artifacts }> {
  const access = c.get("access");
  const { adapters, artifactsOf, randomSeed, now } = dependencies;
  const served = await dependencies.artifacts();
  const own = await adapters.named(access, model, chameleon.adapter, served.manifest);
  const deadlineMs = deadlineOf(c.req.header(deadlineHeader));
  const requestId = c.get("requestId");
  const seed = c.get("repeatable")?.seed ?? randomSeed();
  const writtenMs = c.get("repeatable")?.createdMs ?? now();
  const caller = { requestId, tenant: access.tenant, own, deadlineMs, randomSeed: seed, writtenMs, now };
  let artifacts = await setOf(own, served, access.tenant, dependencies);
  for (let replans = 0; ; replans++) {
    const { manifestHash } = artifacts;
    /** The set that the tenant's adapters were made for, if it is not `artifacts` and can be loaded; else empty. */
    const others: Artifacts[] = [];
    const nearest = async (embeddings: Float32Array[]) => {
      const found = await adapters.nearest(access, embeddings, manifestHash);
      const other = found.manifestHash === manifestHash ? null : await artifactsOf(found.manifestHash);
      if (other) others.push(other);
      return found.nearest;
    };
    const isLast = () => others.length === 0 || replans === maxReplans;
    try {
      const made = await plan(artifacts, { ...caller, nearest });
      if (isLast()) return { plan: made, artifacts };
    } catch (error) {
      // `others` has adapters that this plan lacks, so this refusal may be wrong.
      if (isLast()) throw error;
    }
    [artifacts] = others;
  }
}

/** The set that the named adapters were made for; the served set if no adapter is named. Throws as `planned` does. */
export async function setOf(
  own: NamedAdapters,
  served: Artifacts,
  tenant: string,
  { adapters, artifactsOf }: Dependencies,
): Promise<Artifacts> {
  const named = [...own.values()];
  for (const one of named) requireMade(one);
  const older = named.find(({ manifestHash }) => manifestHash !== served.manifestHash);
  if (!older) return served;
  adapters.refit(tenant, served.manifestHash);
  const isOneSet = named.every(({ manifestHash }) => manifestHash === older.manifestHash);
  const set = isOneSet ? await artifactsOf(older.manifestHash) : null;
  if (!set) throw outdated(older, served.manifestHash);
  return set;
}

function deadlineOf(header: string | undefined): number | null {
  if (header === undefined) return null;
  const deadlineMs = /^\d{1,9}$/.test(header) ? Number(header) : 0;
  if (deadlineMs >= 1 && deadlineMs <= limits.deadlineMs) return deadlineMs;
  const shown = JSON.stringify(header.slice(0, 40));
  const message = `The header ${deadlineHeader} is ${shown}; it must be milliseconds, 1 to ${limits.deadlineMs}.`;
  throw new ServiceError("invalid_request", message, { param: deadlineHeader });
}

/** Hash of the artifacts, adapters and memories. They and the request determine the answer's tokens. */
function stateOf({ manifestHash, choices }: Plan): string {
  const used = choices.map(({ assignment, sequence: { mixture, memories } }) => [
    assignment.adapter,
    mixture,
    memories,
  ]);
  return fnv1a(JSON.stringify([manifestHash, used])).toString(36);
}

/** Rejects with a ServiceError if the answer fails before it begins. */
export async function answerFromCell(
  c: AppContext,
  dependencies: Dependencies,
  { request, plan, artifacts, form, settings }: Generation,
): Promise<Response> {
  const { signal } = c.req.raw;
  const idempotencyKey = c.get("idempotencyKey");
  const model = request.model ?? `${artifacts.manifest.model.servedAs}:auto`;
  const { echo, logprobs, prompt_logprobs: promptLogprobs, withBlock } = request;
  const { compare, sources } = request.chameleon;
  const options = { echo, logprobs, promptLogprobs, compare, sources, withBlock };
  if (!request.stream) refuseManyLogprobs(plan, { form, ...options });
  const repeatable = c.get("repeatable");
  const isResumable = request.stream && repeatable !== undefined && plan.choices.length === 1;
  const resumeFrom = resumptionOf(c, isResumable ? plan.choices[0].sequence.maxTokens : null);
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
      id: forms[form].idPrefix + (repeatable?.id ?? c.get("requestId").replace(/^req_/, "")),
      created: Math.floor((repeatable?.createdMs ?? dependencies.now()) / 1000),
      model,
      fingerprint: `fp_${plan.manifestHash.slice(0, 12)}`,
      ...(settings && { settings }),
    },
    plan,
    options,
    stream: request.stream,
    includeUsage: request.stream_options?.include_usage ?? false,
    heartbeatMs: dependencies.heartbeatMs,
    admitted: { ...admission.request, ...(idempotencyKey && { idempotencyKey: keyIn(idempotencyKey, stateOf(plan)) }) },
    ...(isResumable && { withEventIds: true }),
    ...(resumeFrom && { resumeFrom }),
  };
  /** Settles the admission if no cell got the request. A cell that got the request settles earlier. */
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
          void admission.settle([]);
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
    // A cell that refuses a request settles the admission. After NotTaken or a lost cell, the Worker must settle it.
    if (!(thrown instanceof ServiceError) || thrown instanceof NotTaken) void admission.settle([]);
    throw thrown instanceof ServiceError ? thrown : interrupted(thrown);
  }
}
