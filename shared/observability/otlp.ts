/**
 * OTLP over HTTP, JSON encoding (opentelemetry-proto 1.x): what the edge sends to a collector. Only the few shapes in
 * use here; OpenTelemetry's own packages weigh more than the whole Worker may. Pure, but for the exporter's `send`.
 */

export type Attributes = Record<string, string | number | boolean>;

/** A finished request. It never holds text of a prompt or a completion. */
export interface Span {
  traceId: string;
  spanId: string;
  parentSpanId: string | null;
  name: string;
  /** Milliseconds since 1970, fractions counted. */
  startMs: number;
  endMs: number;
  attributes: Attributes;
  /** What went wrong, or null. */
  error: string | null;
}

/** What was counted or measured since the last report ("delta" in OTLP's words). */
export type Metric =
  | { kind: "sum"; name: string; unit: string; attributes: Attributes; value: number }
  | {
      kind: "histogram";
      name: string;
      unit: string;
      attributes: Attributes;
      bounds: readonly number[];
      counts: number[];
      sum: number;
    };

const serverKind = 2;
const deltaTemporality = 1;
const errorStatus = 2;

/** Body of POST /v1/traces. */
export function tracesBody(service: string, spans: readonly Span[]): string {
  return JSON.stringify({
    resourceSpans: [
      {
        resource: resourceOf(service),
        scopeSpans: [{ scope, spans: spans.map(spanOf) }],
      },
    ],
  });
}

/** Body of POST /v1/metrics: what happened from `startMs` to `endMs`. */
export function metricsBody(service: string, metrics: readonly Metric[], startMs: number, endMs: number): string {
  const times = { startTimeUnixNano: nanos(startMs), timeUnixNano: nanos(endMs) };
  return JSON.stringify({
    resourceMetrics: [
      {
        resource: resourceOf(service),
        scopeMetrics: [{ scope, metrics: metrics.map((metric) => metricOf(metric, times)) }],
      },
    ],
  });
}

const scope = { name: "chameleon" };

function resourceOf(service: string) {
  return { attributes: attributesOf({ "service.name": service }) };
}

function spanOf({ startMs, endMs, attributes, error, parentSpanId, ...span }: Span) {
  return {
    ...span,
    ...(parentSpanId ? { parentSpanId } : {}),
    kind: serverKind,
    startTimeUnixNano: nanos(startMs),
    endTimeUnixNano: nanos(Math.max(startMs, endMs)),
    attributes: attributesOf(attributes),
    ...(error === null ? {} : { status: { code: errorStatus, message: error } }),
  };
}

function metricOf(metric: Metric, times: { startTimeUnixNano: string; timeUnixNano: string }) {
  const { name, unit } = metric;
  const point = { ...times, attributes: attributesOf(metric.attributes) };
  if (metric.kind === "sum") {
    const dataPoints = [{ ...point, asDouble: metric.value }];
    return { name, unit, sum: { dataPoints, aggregationTemporality: deltaTemporality, isMonotonic: true } };
  }
  const count = String(metric.counts.reduce((total, one) => total + one, 0));
  const dataPoints = [
    { ...point, count, sum: metric.sum, bucketCounts: metric.counts.map(String), explicitBounds: metric.bounds },
  ];
  return { name, unit, histogram: { dataPoints, aggregationTemporality: deltaTemporality } };
}

function attributesOf(attributes: Attributes) {
  return Object.entries(attributes).map(([key, value]) => ({ key, value: otlpValue(value) }));
}

function otlpValue(value: string | number | boolean) {
  if (typeof value === "string") return { stringValue: value };
  if (typeof value === "boolean") return { boolValue: value };
  // 64-bit integers are strings in protobuf's JSON.
  return Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}

/** Nanoseconds do not fit a float64: microseconds do. */
function nanos(ms: number): string {
  return `${Math.round(ms * 1000)}000`;
}

/** Where to report. */
export interface OtlpTarget {
  /** Without the path of a signal: `https://collector.example.com`. */
  endpoint: string;
  headers: Record<string, string>;
}

/**
 * OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS as OpenTelemetry defines them; null where no endpoint is set.
 * Throws an Error that names the variable at fault.
 */
export function readOtlpTarget(endpoint: string | undefined, headers: string | undefined): OtlpTarget | null {
  if (!endpoint) return null;
  if (!/^https?:\/\/[^\s]+$/.test(endpoint)) {
    throw new Error(`OTEL_EXPORTER_OTLP_ENDPOINT is ${JSON.stringify(endpoint)}; it must be an http(s) URL`);
  }
  const pairs = (headers ?? "").split(",").filter((pair) => pair.trim() !== "");
  const entries = pairs.map((pair) => {
    const at = pair.indexOf("=");
    // The value may be a secret: it is not repeated.
    if (at < 1) throw new Error("OTEL_EXPORTER_OTLP_HEADERS must be a list of name=value, separated by commas");
    return [pair.slice(0, at).trim(), decodeURIComponent(pair.slice(at + 1).trim())];
  });
  return { endpoint: endpoint.replace(/\/+$/, ""), headers: Object.fromEntries(entries) };
}
