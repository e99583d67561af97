/**
 * Labels as a tree of tokens: where they part, the model chooses among the tokens that continue them. So a label's probability is that
 * of an output that can be nothing but one of the labels. If all differ in their first token, as most do, one pass over the prompt is
 * enough. Pure.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest } from "../../shared/errors.ts";

/** A place where labels part. */
export interface Branch {
  /** Tokens that its labels share, after the prompt. */
  prefixIds: number[];
  /** The tokens that may follow, and the indices of the labels that each continues. */
  next: { id: number; labels: number[] }[];
}

/**
 * The branches of labels [L] of token ids. A label with which another begins ends in `endId`. Throws invalid_request for labels of the
 * same tokens, or too many that part at one place.
 */
export function branchesOf(labels: readonly (readonly number[])[], endId: number): Branch[] {
  const branches: Branch[] = [];
  const divide = (all: number[], depth: number) => {
    const byId = Map.groupBy(all, (label) => labels[label][depth] ?? endId);
    if (byId.size > limits.classifyBranches) {
      throw invalidRequest(
        `${byId.size} labels differ in the same token, the maximum is ${limits.classifyBranches}`,
        "labels",
      );
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

/** Probabilities of L labels, from those of the tokens at each branch, in its order. */
export function labelProbabilities(branches: readonly Branch[], chosen: readonly number[][], L: number): number[] {
  const probabilities = new Array<number>(L).fill(1);
  for (const [b, { next }] of branches.entries()) {
    const sum = chosen[b].reduce((total, p) => total + p, 0);
    for (const [i, { labels }] of next.entries())
      for (const label of labels) probabilities[label] *= chosen[b][i] / sum;
  }
  return probabilities;
}
