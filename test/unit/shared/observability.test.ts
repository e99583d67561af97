import { expect, test } from "vitest";
import { readOtlpTarget } from "../../../shared/observability/otlp.ts";
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

test("OTLP: the collector is read as OpenTelemetry names it", () => {
  expect(readOtlpTarget(undefined, "a=b")).toBeNull();
  const headers = { authorization: "Basic x", tenant: "1" };
  const target = readOtlpTarget("http://c:4318/", "authorization=Basic%20x, tenant=1");
  expect(target).toEqual({ endpoint: "http://c:4318", headers });
  expect(() => readOtlpTarget("c:4318", undefined)).toThrow(/OTEL_EXPORTER_OTLP_ENDPOINT is "c:4318"/);
  expect(() => readOtlpTarget("http://c", "=secret")).toThrow(/OTEL_EXPORTER_OTLP_HEADERS/);
});
