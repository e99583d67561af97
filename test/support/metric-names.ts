/** The metrics of backend and edge, and those that a PromQL expression uses. */
import { onTestFinished, vi } from "vitest";
import { EdgeMetrics } from "../../edge/platform/edge-metrics.ts";
import { createMetrics } from "../../gpu-backend/http/metrics.ts";
import { noEngine } from "./metrics-view.ts";

/** All series that the backend's /metrics prints. A histogram has buckets, a sum and a count. */
export async function backendMetricNames(): Promise<string[]> {
  const metrics = createMetrics({ ...noEngine, manifests: () => ({ all: ["a"], first: "a" }) });
  const types = [...(await metrics.text()).matchAll(/^# TYPE ([\w:]+) (\w+)/gm)];
  return types.flatMap(([, name, type]) =>
    type === "histogram" ? ["bucket", "sum", "count"].map((part) => `${name}_${part}`) : [name],
  );
}

/** Names of our metrics in an expression, without those of Prometheus itself. */
export function namesIn(expression: string): string[] {
  return expression.match(/\b(chameleon_|vllm:)\w+/g) ?? [];
}

/** Every metric that the edge reports over OTLP. A counter has a `sum`. */
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

export async function edgeMetricNames(): Promise<string[]> {
  return (await edgeMetrics()).map(({ name, unit, sum }) => {
    const suffix = sum ? "_total" : unit === "s" ? "_seconds_bucket" : "_bucket";
    return name.replaceAll(".", "_") + suffix;
  });
}
