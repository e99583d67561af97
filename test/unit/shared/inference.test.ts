import fc from "fast-check";
import { expect, test } from "vitest";
import { frameSchema, plainTokenFrame, samplingSchema } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/frames.ts";

test("an edge that knows neither topK nor minP asks for all tokens; what is out of range is refused", () => {
  const { topK: _, minP: __, ...older } = sequenceRequest("a").sampling;
  expect(samplingSchema.parse(older)).toEqual({ ...older, topK: 0, minP: 0 });
  expect(samplingSchema.parse({ ...older, topK: 40, minP: 1 })).toMatchObject({ topK: 40, minP: 1 });
  for (const bad of [{ topK: -1 }, { topK: 1.5 }, { minP: 1.01 }, { minP: -0.1 }]) {
    expect(samplingSchema.safeParse({ ...older, ...bad }).success).toBe(false);
  }
});

test("a plain token frame is told without the schema, and nothing is that the schema would not return as it is", () => {
  const sane = { type: "token", id: "a_1", index: 0, tokenId: 7 };
  expect(plainTokenFrame(sane)).toBe(sane);
  expect(plainTokenFrame({ ...sane, logprob: -1.5, baseLogprob: -2 })).not.toBeNull();
  const odd = fc.oneof(fc.jsonValue(), fc.integer(), fc.double(), fc.string(), fc.constant(undefined));
  const field = <T>(usual: fc.Arbitrary<T>) => fc.oneof({ weight: 9, arbitrary: usual }, { weight: 1, arbitrary: odd });
  const plainFields = {
    type: fc.constantFrom("token", "token", "token", "done"),
    id: field(fc.stringMatching(/^[a-z_-]{1,9}$/)),
    index: field(fc.nat()),
    tokenId: field(fc.nat()),
    logprob: field(fc.double({ noNaN: true })),
    baseLogprob: field(fc.double({ noNaN: true })),
  };
  const requiredKeys = ["type", "id", "index", "tokenId"] as const;
  const frame = fc.oneof(
    fc.record(plainFields, { requiredKeys: [...requiredKeys] }),
    fc.record({ ...plainFields, alternatives: odd, more: odd }, { requiredKeys: [] }),
  );
  let told = 0;
  fc.assert(
    fc.property(fc.oneof({ weight: 9, arbitrary: frame }, { weight: 1, arbitrary: odd }), (value) => {
      const plain = plainTokenFrame(value);
      if (!plain) return;
      told++;
      expect(frameSchema.parse(value)).toEqual(plain);
    }),
    { numRuns: 5000 },
  );
  expect(told).toBeGreaterThan(100);
});
