/**
 * One trace per request: it goes on from the caller's `traceparent` or begins here, and ends when the last byte has been
 * sent. A line of log for each request, without any of its text.
 */
import { createMiddleware } from "hono/factory";
import type { Attributes } from "../../shared/observability/otlp.ts";
import { isSampled, parseTraceparent } from "../../shared/observability/trace-context.ts";
import type { AppEnvironment } from "../dependencies.ts";
import { coloField, pacedMsField, RequestTrace, type TraceDependencies } from "../observability/request-trace.ts";

export function requestTrace({ newId, now, sampleRatio, ended, logRequest }: TraceDependencies) {
  return createMiddleware<AppEnvironment>(async (c, next) => {
    const { arrivedMs: startMs, pacedMs } = c.env;
    const caller = sampleRatio > 0 ? parseTraceparent(c.req.header("traceparent")) : null;
    const traceId = caller?.traceId ?? newId();
    const sampled = sampleRatio > 0 && (caller?.sampled ?? isSampled(traceId, sampleRatio));
    const trace = new RequestTrace({ traceId, spanId: newId().slice(0, 16), sampled });
    if (pacedMs > 0) trace.note({ [pacedMsField]: pacedMs });
    c.set("trace", trace);
    await next();
    const { status } = c.res;
    const finish = (error: string | null) => {
      const endMs = now();
      const tenant = c.get("tenant");
      const { cf } = c.req.raw as { cf?: { colo?: string } };
      const attributes: Attributes = {
        "http.request.method": c.req.method,
        "url.path": c.req.path.slice(0, 200),
        "http.response.status_code": status,
        "chameleon.request_id": c.get("requestId"),
        ...(cf?.colo ? { [coloField]: cf.colo } : {}),
        ...(tenant ? { "chameleon.tenant": tenant } : {}),
        ...trace.attributes,
      };
      logRequest({ ...attributes, traceId, ms: endMs - startMs, ...(error ? { error } : {}) });
      if (!sampled) return;
      const name = `${c.req.method} ${c.req.path.slice(0, 200)}`;
      const { spanId } = trace.context;
      ended({
        traceId,
        spanId,
        parentSpanId: caller?.spanId ?? null,
        name,
        kind: "server",
        startMs,
        endMs,
        attributes,
        error,
      });
    };
    if (trace.end !== null) void trace.end.then(finish);
    else finish(status >= 500 ? `status ${status}` : null);
  });
}
