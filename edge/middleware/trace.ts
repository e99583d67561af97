/**
 * The id of each request, and its trace. The trace goes on from the caller's `traceparent` or begins here, and ends when the
 * last byte has been sent. A line of log for each request, without any of its text.
 */
import type { Attributes } from "../../shared/observability/otlp.ts";
import { formatTraceparent, isSampled, parseTraceparent } from "../../shared/observability/trace-context.ts";
import type { Middleware } from "../dependencies.ts";
import { coloField, pacedMsField } from "../observability/edge-metrics.ts";
import type { Access } from "../tenants/keys.ts";

export const requestTrace: Middleware = async (c, next, { newId, now, tracing }) => {
  const { sampleRatio, ended, logRequest } = tracing;
  const { arrivedMs: startMs, pacedMs } = c.env;
  const caller = sampleRatio > 0 ? parseTraceparent(c.req.header("traceparent")) : null;
  // The request's id is never the client's; the trace's may be, if it has the form of one.
  const id = newId();
  c.set("requestId", `req_${id}`);
  const traceId = caller?.traceId ?? id;
  const sampled = sampleRatio > 0 && (caller?.sampled ?? isSampled(traceId, sampleRatio));
  const spanId = sampled ? newId().slice(0, 16) : null;
  c.set("traceparent", spanId && formatTraceparent({ traceId, spanId, sampled }));
  c.set("attributes", pacedMs > 0 ? { [pacedMsField]: pacedMs } : {});
  await next();
  const { status } = c.res;
  const path = c.req.path.slice(0, 200);
  const finish = (error: string | null) => {
    const endMs = now();
    const access: Access | undefined = c.get("access");
    const { cf } = c.req.raw as { cf?: { colo?: string } };
    const attributes: Attributes = {
      "http.request.method": c.req.method,
      "url.path": path,
      "http.response.status_code": status,
      "chameleon.request_id": c.get("requestId"),
      ...(cf?.colo ? { [coloField]: cf.colo } : {}),
      ...(access ? { "chameleon.tenant": access.tenant } : {}),
      ...c.get("attributes"),
    };
    logRequest({ ...attributes, traceId, ms: endMs - startMs, ...(error ? { error } : {}) });
    if (!spanId) return;
    const span = { traceId, spanId, parentSpanId: caller?.spanId ?? null, kind: "server" as const, startMs, endMs };
    ended({ ...span, name: `${c.req.method} ${path}`, attributes, error });
  };
  const end = c.get("end");
  if (end) void end.then(finish);
  else finish(status >= 500 ? `status ${status}` : null);
};
