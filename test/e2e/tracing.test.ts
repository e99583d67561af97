/** A request's span as a collector sees it: over OTLP, in the caller's trace, and without any text. */
import { text } from "node:stream/consumers";
import { expect, test } from "vitest";
import { stopAtEnd } from "../support/at-end.ts";
import { serve } from "../support/loopback.ts";
import { startStack } from "../support/stack.ts";

interface Received {
  service: string;
  traceId: string;
  parentSpanId?: string;
  name: string;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: { key: string; value: Record<string, unknown> }[];
  status?: { message?: string };
}

const spans: Received[] = [];
const metricNames = new Set<string>();
const bodies: string[] = [];
const collector = await serve(async (request, response) => {
  const body = await text(request);
  bodies.push(body);
  const { resourceSpans = [], resourceMetrics = [] } = JSON.parse(body);
  for (const { resource, scopeSpans } of resourceSpans) {
    const service = resource.attributes[0].value.stringValue;
    for (const { spans: some } of scopeSpans) for (const span of some) spans.push({ service, ...span });
  }
  for (const { scopeMetrics } of resourceMetrics) {
    for (const { metrics } of scopeMetrics) for (const { name } of metrics) metricNames.add(name);
  }
  response.end("{}");
});
const stack = stopAtEnd(await startStack({ OTEL_EXPORTER_OTLP_ENDPOINT: collector }));

const attribute = (span: Received, key: string) =>
  Object.values(span.attributes.find((one) => one.key === key)?.value ?? {})[0];

test.each([false, true])("a caller's trace goes on at the edge (stream: %s)", async (stream) => {
  const traceId = (stream ? "b" : "a").repeat(32);
  const secret = "Pemberley porcupine";
  const response = await stack.post(
    "/v1/completions",
    { prompt: secret, max_tokens: 3, temperature: 0, stream },
    { traceparent: `00-${traceId}-${"c".repeat(16)}-01` },
  );
  const answer = await response.text();
  expect(response.status, answer).toBe(200);
  const ours = () => spans.filter((span) => span.traceId === traceId);
  await expect.poll(() => ours().length, { timeout: 15_000 }).toBe(1);

  const [edge] = ours();
  expect(edge).toMatchObject({ service: "chameleon-edge", name: "POST /v1/completions", parentSpanId: "c".repeat(16) });
  expect(attribute(edge, "chameleon.request_id")).toBe(response.headers.get("x-request-id"));
  expect(BigInt(edge.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(edge.startTimeUnixNano));
  for (const body of bodies) expect(body).not.toMatch(/Pemberley|porcupine/);
});

test("a caller that goes away in the middle of a stream ends its span", async () => {
  const traceId = "e".repeat(32);
  const gone = new AbortController();
  const response = await fetch(`${stack.edge}/v1/completions`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${stack.key}`,
      traceparent: `00-${traceId}-${"c".repeat(16)}-01`,
    },
    body: JSON.stringify({ prompt: "x", max_tokens: 250, n: 8, temperature: 1, stream: true }),
    signal: gone.signal,
  });
  await response.body!.getReader().read();
  gone.abort();
  const isItsEnd = (span: Received) => span.traceId === traceId;
  await expect.poll(() => spans.find(isItsEnd)?.status?.message, { timeout: 15_000 }).toMatch(/client/);
});

test("the edge reports what it counts", async () => {
  const wanted = ["chameleon.edge.requests", "chameleon.edge.batch.fill", "chameleon.edge.queue.age"];
  await expect.poll(() => wanted.filter((name) => !metricNames.has(name)), { timeout: 15_000 }).toEqual([]);
});
