/**
 * The labels of a classification as a tree of tokens. At each branch, where labels have different next tokens, the model chooses among
 * these tokens alone. So a label's probability is that of an output which must be one of the labels. Most sets of labels differ in
 * their first token and need one pass over the prompt. Pure.
 */
import { limits } from "../../shared/contracts/limits.ts";
import { invalidRequest } from "../../shared/errors.ts";

/** A place where labels have different next tokens. */
export interface Branch {
  /** The tokens before that place, which all labels of the branch share. */
  prefixIds: number[];
  /** The next tokens, and the indices of the labels that continue with each. */
  next: { id: number; labels: number[] }[];
}

/**
 * The branches of labels [L], given by their token ids. If one label is the beginning of another, its next token is `endId`. Throws
 * invalid_request for two labels with the same tokens, or too many different next tokens at one place.
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

/** Probabilities of L labels. `chosen`: for each branch, the probabilities of its next tokens. */
export function labelProbabilities(branches: readonly Branch[], chosen: readonly number[][], L: number): number[] {
  const probabilities = new Array<number>(L).fill(1);
  for (const [b, { next }] of branches.entries()) {
    const sum = chosen[b].reduce((total, p) => total + p, 0);
    for (const [i, { labels }] of next.entries())
      for (const label of labels) probabilities[label] *= chosen[b][i] / sum;
  }
  return probabilities;
}
