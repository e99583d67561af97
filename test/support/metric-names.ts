/** The metrics of backend and edge, and the names of those that a PromQL expression uses. */
import { onTestFinished, vi } from "vitest";
import { EdgeMetrics } from "../../edge/platform/edge-metrics.ts";
import { createMetrics } from "../../gpu-backend/http/metrics.ts";
import { noEngine } from "./metrics-view.ts";

/** Of each series that /metrics prints: a histogram has buckets, a sum and a count. */
export async function backendMetricNames(): Promise<string[]> {
  const metrics = createMetrics({ ...noEngine, manifests: () => ({ all: ["a"], first: "a" }) });
  const types = [...(await metrics.text()).matchAll(/^# TYPE ([\w:]+) (\w+)/gm)];
  return types.flatMap(([, name, type]) =>
    type === "histogram" ? ["bucket", "sum", "count"].map((part) => `${name}_${part}`) : [name],
  );
}

/** Of our metrics: Prometheus' own, such as `up`, have other names. */
export function namesIn(expression: string): string[] {
  return expression.match(/\b(chameleon_|vllm:)\w+/g) ?? [];
}

/** Everything that the edge reports over OTLP; `sum` where it is a counter. For use within a test. */
export async function edgeMetrics(): Promise<{ name: string; unit: string; sum?: object }[]> {
  const sent: string[] = [];
  vi.stubGlobal("fetch", async (_: string, { body }: { body: string }) => {
    sent.push(body);
    return new Response();
  });
  onTestFinished(() => void vi.unstubAllGlobals());
  const edge = new EdgeMetrics({ endpoint: "http://collector", headers: {} }, () => 0);
  edge.requested({
    ...{ "http.response.status_code": 200, ms: 1, "chameleon.assign_ms": 1, "chameleon.paced_ms": 1 },
    "chameleon.refused_by": "concurrentRequests",
  });
  edge.batchSent([1]);
  for (const event of ["retried", "resumed", "not_resumed", "ejected", "returned", "call_failed"] as const) {
    edge.routed({ event, backend: "a", sequences: 1 });
  }
  for (const event of ["artifacts_switched", "artifacts_refused", "artifacts_awaited"] as const) {
    edge.artifactsChanged({ event, manifest: "a" });
  }
  edge.refitted("done");
  await edge.report();
  const { metrics: all } = JSON.parse(sent[0]).resourceMetrics[0].scopeMetrics[0];
  return all;
}

/** As Prometheus names the series of what the edge reports over OTLP. */
export async function edgeMetricNames(): Promise<string[]> {
  return (await edgeMetrics()).map(({ name, unit, sum }) => {
    const suffix = sum ? "_total" : unit === "s" ? "_seconds_bucket" : "_bucket";
    return name.replaceAll(".", "_") + suffix;
  });
}
