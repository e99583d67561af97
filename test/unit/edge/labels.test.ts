import { expect, test } from "vitest";
import { branchesOf } from "../../../edge/plan/labels.ts";
import { limits } from "../../../shared/contracts/limits.ts";

test("labels with the same tokens, and labels of too many branches, are refused", () => {
  const refusal = expect.objectContaining({ kind: "invalid_request", param: "labels" });
  expect(() => branchesOf([[5, 6], [7], [5, 6]], 0)).toThrow(refusal);
  const most = Array.from({ length: limits.classifyBranches + 1 }, (_, i) => [i + 1]);
  expect(() => branchesOf(most, 0)).toThrow(refusal);
  expect(branchesOf(most.slice(1), 0)).toHaveLength(1);
});
