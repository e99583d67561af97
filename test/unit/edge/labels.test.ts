/** Labels as branches of tokens: a label's probability is the product along its tokens. Labels with equal tokens are refused. */
import { expect, test } from "vitest";
import { branchesOf, labelProbabilities } from "../../../edge/plan/labels.ts";
import { limits } from "../../../shared/contracts/limits.ts";

const end = 0;

test("labels that differ in their first token need the prompt alone", () => {
  expect(branchesOf([[5, 6], [7], [8, 6, 9]], end)).toEqual([
    { prefixIds: [], next: [5, 7, 8].map((id, label) => ({ id, labels: [label] })) },
  ]);
});

test("labels that begin alike branch later; a label that is the beginning of another ends with the end of text", () => {
  const branches = branchesOf([[5], [5, 6, 7], [5, 6, 8], [9]], end);
  expect(branches.map(({ prefixIds }) => prefixIds)).toEqual([[], [5], [5, 6]]);
  expect(branches[1].next.map(({ id }) => id)).toEqual([end, 6]);
  const chosen = [
    [0.8, 0.2],
    [0.25, 0.75],
    [0.5, 0.5],
  ];
  const probabilities = labelProbabilities(branches, chosen, 4);
  for (const [label, p] of [0.2, 0.3, 0.3, 0.2].entries()) expect(probabilities[label]).toBeCloseTo(p, 12);
});

test("two labels with the same tokens, and too many branches, are refused", () => {
  const refusal = expect.objectContaining({ kind: "invalid_request", param: "labels" });
  expect(() => branchesOf([[5, 6], [7], [5, 6]], end)).toThrow(refusal);
  const most = Array.from({ length: limits.classifyBranches + 1 }, (_, i) => [i + 1]);
  expect(() => branchesOf(most, end)).toThrow(refusal);
  expect(branchesOf(most.slice(1), end)).toHaveLength(1);
});
