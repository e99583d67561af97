import fc from "fast-check";
import { expect, test } from "vitest";
import { frameSchema, plainDoneFrame, plainTokenFrame, samplingSchema } from "../../../shared/contracts/inference.ts";
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

test("a plain done frame is told without the schema, and nothing is that the schema would not return as it is", () => {
  const timings = { queueMs: 0, adapterMs: 0.5, prefillMs: 3, decodeMs: 7 };
  const base = {
    type: "done",
    id: "a_1",
    finishReason: "stop",
    adapter: null,
    promptTokens: 3,
    completionTokens: 0,
    timings,
  };
  const adapter = { hash: "0f".repeat(32), cache: "hit", scale: 0.25 };
  const worn = { ...base, adapter, promptBias: { strength: 1.5, tokens: 9 }, reusedTokens: 2 };
  for (const sane of [base, worn]) expect(plainDoneFrame(sane)).toBe(sane);
  // Each thing in it, at any depth, replaced by something odd or gone, and something odd beside it.
  const paths = [[], ...pathsOf(worn)];
  const odd = fc.oneof(fc.jsonValue(), fc.string(), fc.integer(), fc.double(), fc.constant(undefined));
  const change = fc.record({
    path: fc.constantFrom(...paths),
    name: fc.constantFrom("", "", "", "more", "__proto__"),
    odd,
  });
  let told = 0;
  fc.assert(
    fc.property(fc.array(change, { maxLength: 2 }), (changes) => {
      const frame = changes.reduce<unknown>(
        (one, { path, name, odd }) => changed(one, name ? [...path, name] : path, odd),
        worn,
      );
      const plain = plainDoneFrame(frame);
      if (!plain) return;
      told++;
      expect(frameSchema.parse(frame)).toEqual(plain);
      expect(Object.keys(frameSchema.parse(frame))).toHaveLength(Object.keys(plain).length);
    }),
    { numRuns: 5000 },
  );
  expect(told).toBeGreaterThan(100);
});

function pathsOf(value: unknown): string[][] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) => [[name], ...pathsOf(inner).map((path) => [name, ...path])]);
}

/** `value` with `odd` at `path`; without what is there where that is undefined. */
function changed(value: unknown, [name, ...path]: string[], odd: unknown): unknown {
  if (name === undefined) return odd;
  const copy = typeof value === "object" && value !== null ? { ...value } : {};
  const inner = changed((copy as Record<string, unknown>)[name], path, odd);
  Reflect.deleteProperty(copy, name);
  if (inner !== undefined) Object.defineProperty(copy, name, { value: inner, enumerable: true });
  return copy;
}
