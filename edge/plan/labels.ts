/**
 * A classification's labels as a tree of tokens. At each branch, where labels have different next tokens, the model chooses among these
 * tokens alone, so the labels' probabilities add up to 1. Most sets of labels differ in their first token, and need one pass over the
 * prompt. Pure.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest } from "../../shared/errors.ts";

export interface Branch {
  /** The tokens that all labels of the branch share. */
  prefixIds: number[];
  /** The next tokens, and the indices of the labels that continue with each. */
  next: { id: number; labels: number[] }[];
}

/**
 * `labels`: token ids of each. A label that is the beginning of another continues with `endId`. Throws invalid_request for two labels
 * with the same tokens, or too many different next tokens at one place.
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

/** Probabilities of L labels. `chosen`: those of each branch's next tokens. */
export function labelProbabilities(branches: readonly Branch[], chosen: readonly number[][], L: number): number[] {
  const probabilities = new Array<number>(L).fill(1);
  for (const [b, { next }] of branches.entries()) {
    const sum = chosen[b].reduce((total, p) => total + p, 0);
    for (const [i, { labels }] of next.entries())
      for (const label of labels) probabilities[label] *= chosen[b][i] / sum;
  }
  return probabilities;
}
