import { expect, test } from "vitest";
import { samplingSchema } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/frames.ts";

test("an edge that knows neither topK nor minP asks for all tokens; what is out of range is refused", () => {
  const { topK: _, minP: __, ...older } = sequenceRequest("a").sampling;
  expect(samplingSchema.parse(older)).toEqual({ ...older, topK: 0, minP: 0 });
  expect(samplingSchema.parse({ ...older, topK: 40, minP: 1 })).toMatchObject({ topK: 40, minP: 1 });
  for (const bad of [{ topK: -1 }, { topK: 1.5 }, { minP: 1.01 }, { minP: -0.1 }]) {
    expect(samplingSchema.safeParse({ ...older, ...bad }).success).toBe(false);
  }
});
