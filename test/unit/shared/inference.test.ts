import fc from "fast-check";
import { expect, test } from "vitest";
import { frameSchema, plainTokenFrame } from "../../../shared/contracts/inference.ts";

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
