/** The id, span and log line of each request. The span ends with the response's last byte. */
import type { Attributes } from "../../shared/observability/otlp.ts";
import { isSampled, parseTraceparent } from "../../shared/observability/trace-context.ts";
import { coloField, pacedMsField } from "../platform/edge-metrics.ts";
import type { Access } from "../tenants/keys.ts";
import type { AppContext, Middleware } from "./dependencies.ts";

export const requestTrace: Middleware = async (c, next, { newId, now, tracing }) => {
  const { sampleRatio, ended, logRequest } = tracing;
  const { arrivedMs: startMs, pacedMs } = c.env;
  const id = newId();
  c.set("requestId", `req_${id}`);
  beginTrace(c, { traceId: id, parentSpanId: null, sampled: isSampled(id, sampleRatio) }, newId);
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
    const { traceId, spanId, parentSpanId } = c.get("trace");
    logRequest({ ...attributes, traceId, ms: endMs - startMs, ...(error ? { error } : {}) });
    if (!spanId) return;
    const span = { traceId, spanId, parentSpanId, startMs, endMs };
    ended({ ...span, name: `${c.req.method} ${path}`, attributes, error });
  };
  const end = c.get("end");
  if (end) void end.then(finish);
  else finish(status >= 500 ? `status ${status}` : null);
};

/** Continues a caller's trace only if the caller's key is valid. The caller's sampling decision applies. */
export const callersTrace: Middleware = async (c, next, { newId, tracing }) => {
  const caller = tracing.sampleRatio > 0 ? parseTraceparent(c.req.header("traceparent")) : null;
  if (caller) beginTrace(c, { ...caller, parentSpanId: caller.spanId }, newId);
  await next();
};

function beginTrace(
  c: AppContext,
  { traceId, parentSpanId, sampled }: { traceId: string; parentSpanId: string | null; sampled: boolean },
  newId: () => string,
): void {
  const spanId = sampled ? newId().slice(0, 16) : null;
  c.set("trace", { traceId, spanId, parentSpanId });
}
