import { expect, test } from "vitest";
import { adamWStep, learningRateAt } from "../../../shared/math/adamw.ts";

test("two AdamW steps match a computation by hand", () => {
  const parameter = Float32Array.of(1);
  const moments = { first: new Float32Array(1), second: new Float32Array(1) };
  // Step 1, gradient 2: m = 0.2, v = 0.08; corrected 2 and 4; direction 1; 1 − 0.5·(1 + 0.1·1) = 0.45.
  adamWStep(parameter, Float32Array.of(2), moments, 1, 0.5, 0.1);
  expect(parameter[0]).toBeCloseTo(0.45, 6);
  // Step 2, gradient −1: m = 0.08, v = 0.0984; corrected 0.08/0.19 and 0.0984/0.0396.
  const direction = 0.08 / 0.19 / Math.sqrt(0.0984 / 0.0396);
  adamWStep(parameter, Float32Array.of(-1), moments, 2, 0.5, 0.1);
  expect(parameter[0]).toBeCloseTo(0.45 - 0.5 * (direction + 0.1 * 0.45), 6);
});

test("the learning rate warms up, peaks and falls to nothing", () => {
  const at = (step: number) => learningRateAt(step, 100, 1, 20);
  expect(at(1)).toBeCloseTo(0.05);
  expect(at(20)).toBe(1);
  expect(at(60)).toBeCloseTo(0.5);
  expect(at(100)).toBeCloseTo(0);
});
