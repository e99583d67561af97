import { expect, test } from "vitest";
import { MetricsBuffer } from "../../../shared/observability/metrics-buffer.ts";
import { metricsBody, readOtlpTarget, type Span, tracesBody } from "../../../shared/observability/otlp.ts";
import { isSampled, parseTraceparent } from "../../../shared/observability/trace-context.ts";

const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
const spanId = "00f067aa0ba902b7";

test.each([
  [`00-${traceId}-${spanId}-01`, true],
  [`00-${traceId}-${spanId}-00`, false],
  // Later drafts define more flags; only the lowest bit is known here.
  [`00-${traceId}-${spanId}-03`, true],
])("traceparent %s", (header, sampled) => {
  expect(parseTraceparent(header)).toEqual({ traceId, spanId, sampled });
});

test.each([
  null,
  "",
  `01-${traceId}-${spanId}-01`,
  `00-${traceId.toUpperCase()}-${spanId}-01`,
  `00-${"0".repeat(32)}-${spanId}-01`,
  `00-${traceId}-${"0".repeat(16)}-01`,
  `00-${traceId}-${spanId}-01-more`,
  `00-${traceId}-${spanId}-1`,
])("traceparent %s begins a new trace", (header) => {
  expect(parseTraceparent(header)).toBeNull();
});

test("traceparent: a ratio keeps that share of the traces, and all or none at its ends", () => {
  const ids = Array.from({ length: 1000 }, (_, i) => ((i * 2654435761) >>> 0).toString(16).padStart(32, "0"));
  const kept = (ratio: number) => ids.filter((id) => isSampled(id, ratio)).length;
  expect([kept(0), kept(1)]).toEqual([0, 1000]);
  expect(Math.abs(kept(0.25) - 250)).toBeLessThan(20);
});

const span: Span = {
  ...{ traceId, spanId, parentSpanId: null, name: "decode" },
  ...{ startMs: 1_795_000_000_000.25, endMs: 1_795_000_000_001.5, error: "overloaded" },
  attributes: { text: "a", whole: 3, fraction: 0.5, flag: true },
};

test("OTLP: a span has its times in nanoseconds, its attributes by type, and no parent where it has none", () => {
  const { resourceSpans } = JSON.parse(tracesBody("edge", [span]));
  expect(resourceSpans[0].resource.attributes).toEqual([{ key: "service.name", value: { stringValue: "edge" } }]);
  expect(resourceSpans[0].scopeSpans[0].spans).toEqual([
    {
      ...{ traceId, spanId, name: "decode", kind: 2 },
      startTimeUnixNano: "1795000000000250000",
      endTimeUnixNano: "1795000000001500000",
      attributes: [
        { key: "text", value: { stringValue: "a" } },
        { key: "whole", value: { intValue: "3" } },
        { key: "fraction", value: { doubleValue: 0.5 } },
        { key: "flag", value: { boolValue: true } },
      ],
      status: { code: 2, message: "overloaded" },
    },
  ]);
});

test("OTLP: counts add up and measures fall into buckets, once each", () => {
  const buffer = new MetricsBuffer();
  buffer.add("retries", 2, { backend: "a" });
  buffer.add("retries", 3, { backend: "a" });
  buffer.add("retries", 1, { backend: "b" });
  for (const value of [1, 2, 2.5, 100]) buffer.observe("fill", "1", [1, 2, 4], value);
  const [{ metrics }] = JSON.parse(metricsBody("edge", buffer.take(), 0, 10)).resourceMetrics[0].scopeMetrics;
  const buckets = { count: "4", sum: 105.5, bucketCounts: ["1", "1", "1", "1"], explicitBounds: [1, 2, 4] };
  expect(metrics).toMatchObject([
    { sum: { dataPoints: [{ asDouble: 5 }] } },
    { sum: { dataPoints: [{ asDouble: 1 }] } },
    { histogram: { dataPoints: [buckets] } },
  ]);
  expect(buffer.take()).toEqual([]);
});

test("OTLP: the collector is read as OpenTelemetry names it", () => {
  expect(readOtlpTarget(undefined, "a=b")).toBeNull();
  const headers = { authorization: "Basic x", tenant: "1" };
  const target = readOtlpTarget("http://c:4318/", "authorization=Basic%20x, tenant=1");
  expect(target).toEqual({ endpoint: "http://c:4318", headers });
  expect(() => readOtlpTarget("c:4318", undefined)).toThrow(/OTEL_EXPORTER_OTLP_ENDPOINT is "c:4318"/);
  expect(() => readOtlpTarget("http://c", "=secret")).toThrow(/OTEL_EXPORTER_OTLP_HEADERS/);
});
