/** POST /v1/completions: reads the request, runs its plan, answers whole or as a stream. */
import type { Handler } from "hono";
import { type CompletionRequest, completionRequestSchema } from "../../shared/contracts/openai.ts";
import { sseDone, sseEvent } from "../../shared/contracts/sse.ts";
import { envelopeOf, ServiceError, statusOf, toServiceError } from "../../shared/errors.ts";
import type { ChoicePart } from "../completions/choice.ts";
import { eventStream } from "../completions/event-stream.ts";
import { generate } from "../completions/generate.ts";
import { planCompletion } from "../completions/plan.ts";
import { ResponseBuilder } from "../completions/response.ts";
import type { AppEnvironment, Dependencies } from "../dependencies.ts";
import { admit } from "../middleware/admission.ts";
import { readBody } from "../middleware/body.ts";
import { serverTiming } from "../middleware/server-timing.ts";
import { assignMsField } from "../observability/request-trace.ts";
import { settlesWithin } from "../settles-within.ts";
import { metered } from "../tenants/admission.ts";
import { mostTokens } from "../tenants/token-count.ts";

export function completions(dependencies: Dependencies): Handler<AppEnvironment> {
  const { now } = dependencies;
  return async (c) => {
    const request = await readBody(c.req.raw, completionRequestSchema);
    const artifacts = await dependencies.artifacts();
    const requestId = c.get("requestId");
    const tenant = c.get("tenant");
    const own = await dependencies.adapters.named(tenant, request.model, request.chameleon.adapter, artifacts);
    const caller = { requestId, tenant, own, randomSeed: dependencies.randomSeed(), now };
    const plan = planCompletion(request, artifacts, caller);
    const envelope = {
      id: `cmpl-${dependencies.newId()}`,
      created: Math.floor(now() / 1000),
      model: request.model ?? `${artifacts.manifest.model.servedAs}:auto`,
      fingerprint: `fp_${artifacts.manifestHash.slice(0, 12)}`,
    };
    const builder = new ResponseBuilder(envelope, plan, request.chameleon.compare);

    const abort = new AbortController();
    c.req.raw.signal.addEventListener("abort", () => abort.abort());
    /** Calls off whatever else runs for this request, and says why it ends. */
    const failed = (thrown: unknown): ServiceError => {
      const isGone = abort.signal.aborted;
      abort.abort();
      return isGone
        ? new ServiceError("cancelled", "The client went away.", { cause: thrown })
        : toServiceError(thrown);
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
      const events = eventsOf(resumed(first, parts), builder, request, (thrown) => {
        const error = failed(thrown);
        if (statusOf(error.kind) >= 500) dependencies.log(requestId, error);
        return envelopeOf(error);
      });
      return new Response(
        eventStream(events, dependencies.heartbeatMs, () => abort.abort()),
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
  };
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
  builder: ResponseBuilder,
  request: CompletionRequest,
  envelopeOfFailure: (thrown: unknown) => object,
): AsyncGenerator<string> {
  const includeUsage = request.stream_options?.include_usage ?? false;
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
