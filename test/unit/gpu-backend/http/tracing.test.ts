import { expect, test } from "vitest";
import { Tracer } from "../../../../gpu-backend/http/tracing.ts";
import type { BatchRequest } from "../../../../shared/contracts/inference.ts";
import { doneFrame, sequenceRequest } from "../../../support/frames.ts";

const traceparent = `00-${"a".repeat(32)}-${"b".repeat(16)}-01`;

/** The centroid of each sequence's span, by the sequence. */
async function centroidsOf(batch: BatchRequest): Promise<Record<string, string>> {
  const bodies: string[] = [];
  const tracer = new Tracer({
    target: { endpoint: "http://collector", headers: {} },
    fetch: async (_, { body }) => {
      bodies.push(String(body));
      return new Response(null);
    },
    newSpanId: () => "c".repeat(16),
    epochMs: () => 0,
    log: () => {},
  });
  const trace = tracer.watch(batch)!;
  for (const { id } of batch.sequences) trace(doneFrame(id));
  await tracer.flush();
  const [{ scopeSpans }] = JSON.parse(bodies[0]).resourceSpans;
  type Attribute = { key: string; value: { stringValue: string } };
  const spans = (scopeSpans[0].spans as { attributes: Attribute[] }[]).map(({ attributes }) =>
    Object.fromEntries(attributes.map(({ key, value }) => [key, value.stringValue])),
  );
  const ofSequences = spans.filter((span) => "chameleon.sequence" in span);
  return Object.fromEntries(ofSequences.map((span) => [span["chameleon.sequence"], span["chameleon.centroid"]]));
}

test("a span tells the sequence's own centroid, whichever routed the call", async () => {
  const mixtureOf = (adapter: { centroidId: string } | { adapterHash: string }) => ({
    base: 0.5,
    adapters: [{ ...adapter, weight: 0.5 }],
  });
  const sequences = [
    { ...sequenceRequest("near"), traceparent, mixture: mixtureOf({ centroidId: "c2" }) },
    { ...sequenceRequest("own"), traceparent, mixture: mixtureOf({ adapterHash: "d".repeat(64) }) },
    { ...sequenceRequest("plain"), traceparent },
  ];
  const batch = { version: 3, manifestHash: "a".repeat(64), sequences } as const;
  expect(await centroidsOf({ ...batch, sequences, centroidId: "c1" })).toEqual({ near: "c2", own: "own", plain: "c1" });
  const base = { ...batch, sequences: sequences.slice(2), centroidId: null };
  expect(await centroidsOf(base)).toEqual({ plain: "base" });
  expect(await centroidsOf({ ...base, adapterHash: "d".repeat(64) })).toEqual({ plain: "own" });
});
