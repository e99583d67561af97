/**
 * What the edge counts: requests and how long their pace held them, assignment, micro-batches, and what routing does.
 * Reported to a collector now and then.
 */
import { MetricsBuffer } from "../../shared/observability/metrics-buffer.ts";
import { type Attributes, metricsBody, type OtlpTarget } from "../../shared/observability/otlp.ts";
import type { ArtifactObserver } from "../assign/artifact-sets.ts";
import type { RoutingObserver } from "../backend/routing-observer.ts";
import { post, service } from "./otlp-export.ts";
import { assignMsField, coloField, pacedMsField } from "./request-trace.ts";

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const sequences = [1, 2, 4, 8, 16, 32, 64, 128];
/** Of the requests whose log line has that field, in milliseconds. */
const durations = [
  ["chameleon.edge.assign.duration", assignMsField],
  ["chameleon.edge.pace.wait", pacedMsField],
] as const;
/** Reports are this far apart. None has a timer, which would keep an idle object: one goes out with what happens next. */
const reportMs = 10_000;

export class EdgeMetrics {
  readonly #buffer = new MetricsBuffer();
  readonly #target: OtlpTarget | null;
  readonly #now: () => number;
  /** What is held happened since then. */
  #sinceMs: number;
  #reportedMs = Number.NEGATIVE_INFINITY;

  /** Without a target it counts nothing. */
  constructor(target: OtlpTarget | null, now: () => number) {
    this.#target = target;
    this.#now = now;
    this.#sinceMs = now();
  }

  /** A request ended; `fields` are its log line's. A Worker's clock stands still while it computes: see bench:edge. */
  requested(fields: Attributes): void {
    if (!this.#target) return;
    const colo = fields[coloField];
    const of = { status: fields["http.response.status_code"], ...(colo !== undefined && { colo }) };
    this.#buffer.add("chameleon.edge.requests", 1, of);
    this.#buffer.observe("chameleon.edge.request.duration", "s", seconds, Number(fields.ms) / 1000, of);
    for (const [name, field] of durations) {
      const ms = fields[field];
      if (ms !== undefined) this.#buffer.observe(name, "s", seconds, Number(ms) / 1000);
    }
  }

  /** A micro-batch leaves; `waitsMs` are of each of its sequences. */
  batchSent(waitsMs: readonly number[]): void {
    if (!this.#target) return;
    this.#buffer.observe("chameleon.edge.batch.fill", "{sequence}", sequences, waitsMs.length);
    for (const ms of waitsMs) this.#buffer.observe("chameleon.edge.queue.age", "s", seconds, ms / 1000);
  }

  /** `observer`, counted. */
  counting(observer: RoutingObserver): RoutingObserver {
    const count = (name: string, value: number, backend: string) => {
      if (this.#target) this.#buffer.add(`chameleon.edge.${name}`, value, { backend });
    };
    return {
      retried: (backend, n) => {
        count("retries", n, backend);
        observer.retried(backend, n);
      },
      resumed: (backend, n) => {
        count("resumes", n, backend);
        observer.resumed(backend, n);
      },
      notResumed: (backend, n) => {
        count("not_resumed", n, backend);
        observer.notResumed(backend, n);
      },
      hedged: (backend, n) => {
        count("hedges", n, backend);
        observer.hedged(backend, n);
      },
      ejected: (backend) => {
        count("ejections", 1, backend);
        observer.ejected(backend);
      },
      returned: (backend) => {
        count("returns", 1, backend);
        observer.returned(backend);
      },
      failed: (backend, why) => {
        count("call_failures", 1, backend);
        observer.failed(backend, why);
      },
    };
  }

  /** `observer`, counted. */
  countingArtifacts(observer: ArtifactObserver): ArtifactObserver {
    const count = (name: string, manifest: string) => {
      if (this.#target) this.#buffer.add(`chameleon.edge.artifacts.${name}`, 1, { manifest: manifest.slice(0, 12) });
    };
    return {
      switched: (from, to) => {
        count("switches", to);
        observer.switched(from, to);
      },
      refused: (manifestHash, cause) => {
        count("refusals", manifestHash ?? "pointer");
        observer.refused(manifestHash, cause);
      },
      awaited: (manifestHash) => {
        count("waits", manifestHash);
        observer.awaited(manifestHash);
      },
    };
  }

  /** Reports what there is, where the last report is old enough. Never rejects. */
  async report(): Promise<void> {
    const endMs = this.#now();
    if (!this.#target || endMs - this.#reportedMs < reportMs) return;
    const metrics = this.#buffer.take();
    if (metrics.length === 0) return;
    const body = metricsBody(service, metrics, this.#sinceMs, endMs);
    this.#sinceMs = endMs;
    this.#reportedMs = endMs;
    await post(this.#target, "/v1/metrics", body);
  }
}
