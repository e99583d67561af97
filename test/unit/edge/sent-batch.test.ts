import { expect, test } from "vitest";
import { sentBatch } from "../../../edge/backend/sent-batch.ts";
import { batchRequestSchema } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/frames.ts";

test("a batch that asks for nothing new is one that a backend of the release before takes", () => {
  const batch = (changes: object) => {
    const sequence = sequenceRequest("a");
    const sampling = { ...sequence.sampling, ...changes };
    return batchRequestSchema.parse({
      ...{ version: 1, manifestHash: "a".repeat(64), centroidId: null },
      sequences: [{ ...sequence, sampling }],
    });
  };
  const wire = (changes: object) => JSON.parse(JSON.stringify(sentBatch(batch(changes))));
  const added = ["templateStops", "stopTokenIds", "ignoreEos", "minTokens", "repetitionPenalty"];
  expect(Object.keys(wire({}).sequences[0].sampling).filter((name) => added.includes(name))).toEqual([]);
  const asked = { templateStops: ["#"], stopTokenIds: [0], ignoreEos: true, minTokens: 2, repetitionPenalty: 1.5 };
  for (const changes of [{}, asked, ...Object.entries(asked).map(([name, value]) => ({ [name]: value }))]) {
    expect(batchRequestSchema.parse(wire(changes))).toEqual(batch(changes));
  }
  const kept = batch({});
  sentBatch(kept);
  expect(kept).toStrictEqual(batch({}));
});
