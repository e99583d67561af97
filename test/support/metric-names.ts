/** The names of the backend's metrics, and of those that a PromQL expression uses. */
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
