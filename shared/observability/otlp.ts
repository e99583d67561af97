/** Bodies of OTLP over HTTP in JSON (opentelemetry-proto 1.x). OpenTelemetry's own packages are larger than a Worker may be. Pure. */

export type Attributes = Record<string, string | number | boolean>;

/** A finished request. Holds no text of a prompt or a completion. */
export interface Span {
  traceId: string;
  spanId: string;
  parentSpanId: string | null;
  name: string;
  /** Unix milliseconds, with fractions. */
  startMs: number;
  endMs: number;
  attributes: Attributes;
  error: string | null;
}

/** A counter or histogram since the last report (OTLP's delta temporality). */
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

export function tracesBody(service: string, spans: readonly Span[]): string {
  const scopeSpans = [{ scope, spans: spans.map(spanOf) }];
  return JSON.stringify({ resourceSpans: [{ resource: resourceOf(service), scopeSpans }] });
}

/** Body of POST /v1/metrics. `startMs`, `endMs`: Unix milliseconds of the counted interval. */
export function metricsBody(service: string, metrics: readonly Metric[], startMs: number, endMs: number): string {
  const times = { startTimeUnixNano: nanos(startMs), timeUnixNano: nanos(endMs) };
  const scopeMetrics = [{ scope, metrics: metrics.map((metric) => metricOf(metric, times)) }];
  return JSON.stringify({ resourceMetrics: [{ resource: resourceOf(service), scopeMetrics }] });
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
  // Protobuf's JSON writes 64-bit integers as strings.
  return Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}

/** Unix nanoseconds, rounded to a microsecond, because a float64 cannot hold nanoseconds exactly. */
function nanos(ms: number): string {
  return `${Math.round(ms * 1000)}000`;
}

export interface OtlpTarget {
  /** Base URL such as `https://collector.example.com`, without a path such as /v1/traces. */
  endpoint: string;
  headers: Record<string, string>;
}

/** OTEL_EXPORTER_OTLP_ENDPOINT and _HEADERS as OpenTelemetry defines them; null without an endpoint. Errors name the variable. */
export function readOtlpTarget(endpoint: string | undefined, headers: string | undefined): OtlpTarget | null {
  if (!endpoint) return null;
  if (!/^https?:\/\/[^\s]+$/.test(endpoint)) {
    throw new Error(`OTEL_EXPORTER_OTLP_ENDPOINT is ${JSON.stringify(endpoint)}; it must be an http(s) URL`);
  }
  const pairs = (headers ?? "").split(",").filter((pair) => pair.trim() !== "");
  const entries = pairs.map((pair) => {
    const at = pair.indexOf("=");
    // The value may be a secret, so the error does not repeat it.
    if (at < 1) throw new Error("OTEL_EXPORTER_OTLP_HEADERS must be a list of name=value, separated by commas");
    return [pair.slice(0, at).trim(), decodeURIComponent(pair.slice(at + 1).trim())];
  });
  return { endpoint: endpoint.replace(/\/+$/, ""), headers: Object.fromEntries(entries) };
}
