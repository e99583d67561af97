import { expect, test } from "vitest";
import { promptBias } from "../../../../gpu-backend/adapters/prompt-bias.ts";

const endOfText = 7;
const frequencies = [0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05];
const logarithms = Float32Array.from(frequencies, Math.log);

test("raises what the prompt has, by its count over what text in general has of it", () => {
  const { ids, values } = promptBias([4, 1, 4, 0, 4], logarithms, { strength: 0.5, prior: 20 }, endOfText)!;
  expect([...ids]).toEqual([0, 1, 4]);
  const expected = [1 / (20 * 0.4), 1 / (20 * 0.2), 3 / (20 * 0.05)].map((x) => 0.5 * Math.log(1 + x));
  for (const [i, value] of values.entries()) expect(value).toBeCloseTo(expected[i], 6);
  // The rare one more than the common ones.
  expect(values[2]).toBeGreaterThan(values[1]);
});

test("depends on the prompt's counts alone, not on their order", () => {
  const shape = { strength: 0.7, prior: 500 };
  const one = promptBias([5, 3, 5, 2], logarithms, shape, endOfText);
  expect(promptBias([2, 5, 5, 3], logarithms, shape, endOfText)).toEqual(one);
});

test("is nothing without strength, without tokens, and never makes the end of text likelier", () => {
  const shape = { strength: 0.5, prior: 100 };
  expect(promptBias([1, 2], logarithms, { ...shape, strength: 0 }, endOfText)).toBeNull();
  expect(promptBias([], logarithms, shape, endOfText)).toBeNull();
  expect(promptBias([endOfText, endOfText], logarithms, shape, endOfText)).toBeNull();
  expect([...promptBias([endOfText, 2], logarithms, shape, endOfText)!.ids]).toEqual([2]);
});
