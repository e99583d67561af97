/** Collects counters and histograms between two reports to a collector. Pure. */
import type { Attributes, Metric } from "./otlp.ts";

export class MetricsBuffer {
  readonly #metrics = new Map<string, Metric>();

  add(name: string, value: number, attributes: Attributes = {}): void {
    const metric = this.#metric({ kind: "sum", name, unit: "1", attributes, value: 0 });
    if (metric.kind === "sum") metric.value += value;
  }

  /** Counts a value. `bounds`: upper bounds of all buckets except the last. Every call with the same name must give the same bounds. */
  observe(name: string, unit: string, bounds: readonly number[], value: number, attributes: Attributes = {}): void {
    const counts = Array<number>(bounds.length + 1).fill(0);
    const metric = this.#metric({ kind: "histogram", name, unit, attributes, bounds, counts, sum: 0 });
    if (metric.kind !== "histogram") return;
    const bucket = bounds.findIndex((bound) => value <= bound);
    metric.counts[bucket < 0 ? bounds.length : bucket]++;
    metric.sum += value;
  }

  take(): Metric[] {
    const metrics = [...this.#metrics.values()];
    this.#metrics.clear();
    return metrics;
  }

  #metric(empty: Metric): Metric {
    const key = `${empty.name} ${JSON.stringify(empty.attributes)}`;
    const metric = this.#metrics.get(key) ?? empty;
    this.#metrics.set(key, metric);
    return metric;
  }
}
