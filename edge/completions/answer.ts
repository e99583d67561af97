/** Runs the plan of a completion or a chat, and answers whole or as a stream. */
import type { Context } from "hono";
import { limits } from "../../shared/contracts/limits.ts";
import { sseDone, sseEvent } from "../../shared/contracts/sse.ts";
import { envelopeOf, ServiceError, statusOf, toServiceError } from "../../shared/errors.ts";
import type { Artifacts } from "../assign/artifacts.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { admit } from "../middleware/admission.ts";
import { serverTiming } from "../middleware/server-timing.ts";
import { assignMsField } from "../observability/request-trace.ts";
import { settlesWithin } from "../settles-within.ts";
import { metered } from "../tenants/admission.ts";
import { mostTokens } from "../tenants/token-count.ts";
import type { ChoicePart } from "./choice.ts";
import { eventStream } from "./event-stream.ts";
import { generate } from "./generate.ts";
import type { Caller, GenerationRequest, Plan } from "./plan.ts";
import { type Form, ResponseBuilder } from "./response.ts";

/** A caller's own: milliseconds within which each of its choices must start, else it ends in deadline_exceeded. */
const deadlineHeader = "x-deadline-ms";

export interface Generation<Choice extends object, ChunkChoice extends object> {
  request: GenerationRequest & { stream: boolean; stream_options: { include_usage: boolean } | null };
  plan: Plan;
  artifacts: Artifacts;
  form: Form<Choice, ChunkChoice>;
}

/** Who asks, for whose adapter, and how long that may wait. Throws adapter_outdated, and invalid_request for the header. */
export async function callerOf(
  c: Context<AppEnvironment>,
  dependencies: Dependencies,
  request: Pick<GenerationRequest, "model" | "chameleon">,
  artifacts: Artifacts,
): Promise<Caller> {
  const tenant = c.get("tenant");
  const own = await dependencies.adapters.named(tenant, request.model, request.chameleon.adapter, artifacts);
  const deadlineMs = deadlineOf(c.req.header(deadlineHeader));
  const { randomSeed, now } = dependencies;
  return { requestId: c.get("requestId"), tenant, own, deadlineMs, randomSeed: randomSeed(), now };
}

function deadlineOf(header: string | undefined): number | null {
  if (header === undefined) return null;
  const deadlineMs = /^\d{1,9}$/.test(header) ? Number(header) : 0;
  if (deadlineMs >= 1 && deadlineMs <= limits.deadlineMs) return deadlineMs;
  const shown = JSON.stringify(header.slice(0, 40));
  const message = `The header ${deadlineHeader} is ${shown}; it must be milliseconds, 1 to ${limits.deadlineMs}.`;
  throw new ServiceError("invalid_request", message, { param: deadlineHeader });
}

/** Throws the ServiceError that ends it before its first part. */
export async function answer<Choice extends object, ChunkChoice extends object>(
  c: Context<AppEnvironment>,
  dependencies: Dependencies,
  { request, plan, artifacts, form }: Generation<Choice, ChunkChoice>,
): Promise<Response> {
  const envelope = {
    id: form.idPrefix + dependencies.newId(),
    created: Math.floor(dependencies.now() / 1000),
    model: request.model ?? `${artifacts.manifest.model.servedAs}:auto`,
    fingerprint: `fp_${artifacts.manifestHash.slice(0, 12)}`,
  };
  const builder = new ResponseBuilder(form, envelope, plan, request.chameleon.compare);

  const abort = new AbortController();
  c.req.raw.signal.addEventListener("abort", () => abort.abort());
  /** Calls off whatever else runs for this request, and says why it ends. */
  const failed = (thrown: unknown): ServiceError => {
    const isGone = abort.signal.aborted;
    abort.abort();
    return isGone ? new ServiceError("cancelled", "The client went away.", { cause: thrown }) : toServiceError(thrown);
  };
  const admission = await admit(c, dependencies, mostTokens(plan.choices));
  const trace = c.get("trace");
  trace.note({
    "gen_ai.request.model": envelope.model.slice(0, 80),
    "gen_ai.usage.input_tokens": plan.promptTokens,
    "chameleon.choices": plan.choices.length,
    "chameleon.centroid": plan.choices[0].assignment.centroid.id,
    [assignMsField]: plan.assignMs,
  });
  const dispatch = trace.carriedBy(dependencies.dispatch);
  const generated = generate(plan, request, artifacts.tokenizer, dispatch, abort.signal);
  const parts = metered(generated, plan.choices, envelope.model, admission, abort.signal);
  try {
    if (!request.stream) {
      for await (const part of parts) builder.add(part);
      return c.json(builder.response(), 200, { "server-timing": serverTiming(builder.timings) });
    }
    // A refusal comes at once, and still has a status of its own; whoever waits in a queue gets headers meanwhile.
    const first = parts.next();
    await settlesWithin(first, dependencies.heartbeatMs);
    const events = eventsOf(
      resumed(first, parts),
      builder,
      request.stream_options?.include_usage ?? false,
      (thrown) => {
        const error = failed(thrown);
        if (statusOf(error.kind) >= 500) dependencies.log(c.get("requestId"), error);
        return envelopeOf(error);
      },
    );
    const ended = trace.goesOn();
    return new Response(
      eventStream(events, dependencies.heartbeatMs, (isGone) => {
        if (isGone) abort.abort();
        ended(isGone ? "the client went away" : null);
      }),
      {
        headers: {
          "content-type": "text/event-stream; charset=utf-8",
          "cache-control": "no-store",
          "server-timing": serverTiming({ tokenize: plan.tokenizeMs, assign: plan.assignMs }),
        },
      },
    );
  } catch (thrown) {
    throw failed(thrown);
  }
}

/** `parts` with the one that was asked for already. */
async function* resumed(first: Promise<IteratorResult<ChoicePart, void>>, parts: AsyncIterable<ChoicePart>) {
  const { done, value } = await first;
  if (done) return;
  yield value;
  yield* parts;
}

async function* eventsOf(
  parts: AsyncIterable<ChoicePart>,
  builder: ResponseBuilder<object, object>,
  includeUsage: boolean,
  envelopeOfFailure: (thrown: unknown) => object,
): AsyncGenerator<string> {
  try {
    for await (const part of parts) {
      builder.add(part);
      const chunk = builder.chunk(part);
      if (chunk) yield sseEvent(JSON.stringify(includeUsage ? { ...chunk, usage: null } : chunk));
    }
    if (includeUsage) yield sseEvent(JSON.stringify(builder.usageChunk()));
  } catch (thrown) {
    yield sseEvent(JSON.stringify(envelopeOfFailure(thrown)));
  }
  yield sseDone;
}
