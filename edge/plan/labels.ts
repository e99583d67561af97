/**
 * A classification's labels as a tree of tokens. At a branch, labels have different next tokens, and the model chooses among these tokens
 * alone, so the labels' probabilities sum to 1. Pure.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest } from "../../shared/errors.ts";

export interface Branch {
  /** The tokens that all labels of the branch share. */
  prefixIds: number[];
  /** `labels`: indices of the labels that continue with the token `id`. */
  next: { id: number; labels: number[] }[];
}

/**
 * `labels`: token ids. A label that is the beginning of another label continues with `endId`. Throws invalid_request for two equal labels,
 * or for a branch with too many next tokens.
 */
export function branchesOf(labels: readonly (readonly number[])[], endId: number): Branch[] {
  const branches: Branch[] = [];
  const divide = (all: number[], depth: number) => {
    const byId = Map.groupBy(all, (label) => labels[label][depth] ?? endId);
    if (byId.size > limits.classifyBranches) {
      const message = `${byId.size} labels differ in the same token, the maximum is ${limits.classifyBranches}`;
      throw invalidRequest(message, "labels");
    }
    const next = Array.from(byId, ([id, group]) => ({ id, labels: group }));
    if (next.length > 1) branches.push({ prefixIds: labels[all[0]].slice(0, depth), next });
    for (const { labels: group } of next) {
      if (group.length === 1) continue;
      if (group.every((label) => depth >= labels[label].length)) {
        throw invalidRequest(`labels[${group[0]}] and labels[${group[1]}] have the same tokens`, "labels");
      }
      divide(group, depth + 1);
    }
  };
  divide([...labels.keys()], 0);
  return branches;
}

/** Probabilities of the L labels. `chosen`: for each branch, the probabilities of its next tokens. */
export function labelProbabilities(branches: readonly Branch[], chosen: readonly number[][], L: number): number[] {
  const probabilities = new Array<number>(L).fill(1);
  for (const [b, { next }] of branches.entries()) {
    const sum = chosen[b].reduce((total, p) => total + p, 0);
    for (const [i, { labels }] of next.entries())
      for (const label of labels) probabilities[label] *= chosen[b][i] / sum;
  }
  return probabilities;
}
