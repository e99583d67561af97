/** Counts the edge's metrics and reports them to an OpenTelemetry collector. */
import { MetricsBuffer } from "../../shared/observability/metrics-buffer.ts";
import { type Attributes, metricsBody, type OtlpTarget } from "../../shared/observability/otlp.ts";
import { post, service } from "./otlp-export.ts";

/** Fields of a request's log line. `pacedMsField`: delay by per-key pacing (pace.ts). `coloField`: the data centre, such as `FRA`. */
export const assignMsField = "chameleon.assign_ms";
export const pacedMsField = "chameleon.paced_ms";
export const refusedByField = "chameleon.refused_by";
export const coloField = "chameleon.colo";

export const edgeMetricHelp = {
  "chameleon.edge.requests": "Requests that ended, by status and data centre",
  "chameleon.edge.request.duration": "Seconds from a request's arrival to its end, by status and data centre",
  "chameleon.edge.assign.duration": "Seconds to embed a prompt and find its nearest centroids",
  "chameleon.edge.pace.wait": "Seconds that a request was delayed by its key's pace",
  "chameleon.edge.refusals": "Requests refused by a limit of their tenant, by limit",
  "chameleon.edge.batch.fill": "Sequences in a micro-batch",
  "chameleon.edge.queue.age": "Seconds that a sequence waited for its micro-batch",
  "chameleon.edge.retries":
    "Sequences sent again before their first token, by the backend that failed or refused their call",
  "chameleon.edge.resumes": "Sequences continued on another backend, by the backend that failed",
  "chameleon.edge.not_resumed": "Sequences that ended in `numerics_mismatch`, by the backend that failed",
  "chameleon.edge.ejections": "Backends left out after failures",
  "chameleon.edge.returns": "Backends taken back after a probe found them ready",
  "chameleon.edge.call_failures": "Calls to a backend that failed",
  "chameleon.edge.artifacts.switches": "Artifact sets taken up, by manifest, in each isolate",
  "chameleon.edge.artifacts.refusals": "Published sets or pointers that were refused",
  "chameleon.edge.artifacts.waits": "Times that a published set waited for backends to have it",
  "chameleon.edge.refits":
    "Own adapters made again for other artifacts, by outcome; `begun` without `done` or `failed` wait, `postponed` are tries that are repeated",
} as const;
type EdgeMetric = keyof typeof edgeMetricHelp;
const routingMetrics = {
  retried: "chameleon.edge.retries",
  resumed: "chameleon.edge.resumes",
  not_resumed: "chameleon.edge.not_resumed",
  ejected: "chameleon.edge.ejections",
  returned: "chameleon.edge.returns",
  call_failed: "chameleon.edge.call_failures",
} as const satisfies Record<string, EdgeMetric>;
const artifactMetrics = {
  artifacts_switched: "chameleon.edge.artifacts.switches",
  artifacts_refused: "chameleon.edge.artifacts.refusals",
  artifacts_awaited: "chameleon.edge.artifacts.waits",
} as const satisfies Record<string, EdgeMetric>;

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const sequences = [1, 2, 4, 8, 16, 32, 64, 128];
const durations = [
  ["chameleon.edge.assign.duration", assignMsField],
  ["chameleon.edge.pace.wait", pacedMsField],
] as const;
/** Minimum interval between reports, in milliseconds. Reports have no timer, because a timer would keep an idle object alive. */
const reportMs = 10_000;

export class EdgeMetrics {
  readonly #buffer = new MetricsBuffer();
  readonly #target: OtlpTarget | null;
  readonly #now: () => number;
  #sinceMs: number;
  #reportedMs = Number.NEGATIVE_INFINITY;

  constructor(target: OtlpTarget | null, now: () => number) {
    this.#target = target;
    this.#now = now;
    this.#sinceMs = now();
  }

  /** `fields`: the request's log line. Durations exclude pure computing, which a Worker's clock does not count. */
  requested(fields: Attributes): void {
    if (!this.#target) return;
    const colo = fields[coloField];
    const of = { status: fields["http.response.status_code"], ...(colo !== undefined && { colo }) };
    this.#add("chameleon.edge.requests", 1, of);
    this.#observe("chameleon.edge.request.duration", "s", seconds, Number(fields.ms) / 1000, of);
    const limit = fields[refusedByField];
    if (limit !== undefined) this.#add("chameleon.edge.refusals", 1, { limit });
    for (const [name, field] of durations) {
      const ms = fields[field];
      if (ms !== undefined) this.#observe(name, "s", seconds, Number(ms) / 1000);
    }
  }

  /** `waitsMs`: time that each sequence of the micro-batch was queued. */
  batchSent(waitsMs: readonly number[]): void {
    if (!this.#target) return;
    this.#observe("chameleon.edge.batch.fill", "{sequence}", sequences, waitsMs.length);
    for (const ms of waitsMs) this.#observe("chameleon.edge.queue.age", "s", seconds, ms / 1000);
  }

  routed(one: { event: keyof typeof routingMetrics; backend: string; sequences?: number }): void {
    this.#add(routingMetrics[one.event], one.sequences ?? 1, { backend: one.backend });
  }

  artifactsChanged({ event, manifest }: { event: keyof typeof artifactMetrics; manifest: string | null }): void {
    this.#add(artifactMetrics[event], 1, { manifest: manifest?.slice(0, 12) ?? "pointer" });
  }

  refitted(outcome: "begun" | "done" | "postponed" | "failed"): void {
    this.#add("chameleon.edge.refits", 1, { outcome });
  }

  #add(name: EdgeMetric, value: number, attributes: Attributes): void {
    if (this.#target) this.#buffer.add(name, value, attributes);
  }

  #observe(name: EdgeMetric, unit: string, buckets: readonly number[], value: number, attributes?: Attributes): void {
    this.#buffer.observe(name, unit, buckets, value, attributes);
  }

  /** Does nothing within `reportMs` of the last report. Never rejects. */
  async report(): Promise<void> {
    const endMs = this.#now();
    // The difference is negative if the clock was set back.
    if (!this.#target || Math.abs(endMs - this.#reportedMs) < reportMs) return;
    const metrics = this.#buffer.take();
    if (metrics.length === 0) return;
    const body = metricsBody(service, metrics, this.#sinceMs, endMs);
    this.#sinceMs = endMs;
    this.#reportedMs = endMs;
    await post(this.#target, "/v1/metrics", body);
  }
}
