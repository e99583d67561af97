/**
 * Mixes a model with memories of documents (kNN-LM: Khandelwal et al. 2020, arXiv 1911.00172; adaptive weight: He et al. 2021, arXiv
 * 2109.04212). A memory has a key for every token of its documents: the input of the last feed-forward layer at the position before the
 * token, scaled to length 1. At each step, the nearest keys predict the next token: p = (1 − Σ λₘ) · p_model + Σ λₘ · p_memory,m. λ is
 * multiplied by a brake, a factor that the prompt's own tokens choose once. Pure.
 */

import type { Manifest } from "../artifacts/manifest.ts";

export type MemoryRule = NonNullable<Manifest["memory"]>;

/** Fitted on many kinds of text, with equal weight for memories of related and of unrelated text. */
export const defaultMemoryRule: MemoryRule = {
  ...{ neighbours: 32, theta: 20, maxShare: 0.9 },
  weights: [-5.1, 1.9, 1.9, 1.3, -1.9, 2.8],
  ...{ brakes: [0, 0.3, 1, 1.6], brakePriors: [0.25, 0.25, 0.35, 0.15] },
};

/** Maximum number of prompt tokens from which the brakes are chosen. */
export const brakePositions = 32;

/** Nearest keys of a state, best first. */
export interface Neighbours {
  cosines: Float32Array;
  /** The token after each key in its document. */
  nextIds: Int32Array;
}

/** Returns the memory's probability of each token id. Empty without neighbours. */
export function memoryProbabilities({ cosines, nextIds }: Neighbours, { theta }: MemoryRule): Map<number, number> {
  const probabilities = new Map<number, number>();
  const weights = Float64Array.from(cosines, (cosine) => Math.exp(theta * (cosine - cosines[0])));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  for (const [i, weight] of weights.entries()) {
    probabilities.set(nextIds[i], (probabilities.get(nextIds[i]) ?? 0) + weight / sum);
  }
  return probabilities;
}

/** What a memory's weight depends on: the nearest key's cosine, and the greatest probability of a token in memory and model. */
export interface MemoryMatch {
  cosine: number;
  memory: number;
  model: number;
}

/** Weight of a memory in a step, not yet multiplied by a brake. */
export function memoryWeight({ weights }: MemoryRule, match: MemoryMatch): number {
  const z = memoryFeatures(match).reduce((sum, feature, i) => sum + feature * weights[i], 0);
  return 1 / (1 + Math.exp(-z));
}

/** In the order of `MemoryRule.weights`. */
export function memoryFeatures({ cosine, memory, model }: MemoryMatch): number[] {
  const near = 5 * (cosine - 0.7);
  return [1, near, 10 * Math.max(0, cosine - 0.9), memory, model, memory * near];
}

export interface MemoryEvidence {
  /** Weight of the memory, not yet multiplied by a brake. */
  weight: number;
  /** The memory's probability of the token. */
  probability: number;
}

/** [memories][brakes]. All weights together add up to 1. */
export type BrakeWeights = number[][];

function priorBrakes(memories: number, { brakePriors }: MemoryRule): BrakeWeights {
  return Array.from({ length: memories }, () => brakePriors.map((prior) => prior / memories));
}

/** Probability of a token from model and memories, before a prompt chose brakes. `model`: the model's own probability. */
export function mixedBeforeBrakes(rule: MemoryRule, model: number, says: readonly MemoryEvidence[]): number {
  const weights = says.map(({ weight }) => weight);
  const shares = memoryShares(rule, weights, priorBrakes(says.length, rule));
  return says.reduce((sum, { probability }, m) => sum + shares[m] * (probability - model), model);
}

/** Weighs brakes by prior and likelihood. `model`: the model's probability of each token. `evidence`: [memories][tokens]. */
export function weighBrakes(
  rule: MemoryRule,
  model: readonly number[],
  evidence: readonly (readonly MemoryEvidence[])[],
): BrakeWeights {
  const logWeights = priorBrakes(evidence.length, rule).map((priors, m) =>
    priors.map((prior, k) => {
      let sum = Math.log(prior);
      for (const [t, { weight, probability }] of evidence[m].entries()) {
        const share = Math.min(rule.maxShare, rule.brakes[k] * weight);
        sum += Math.log(Math.max(Number.MIN_VALUE, model[t] + share * (probability - model[t])));
      }
      return sum;
    }),
  );
  const highest = Math.max(...logWeights.flat());
  const scaled = logWeights.map((own) => own.map((logWeight) => Math.exp(logWeight - highest)));
  const sum = scaled.flat().reduce((total, weight) => total + weight, 0);
  return scaled.map((own) => own.map((weight) => weight / sum));
}

/** Share of each memory in a step, at most `maxShare` together. `weights`: not yet multiplied by brakes. */
export function memoryShares(
  { brakes, maxShare }: MemoryRule,
  weights: readonly number[],
  chosen: BrakeWeights,
): number[] {
  return weights.map((weight, m) =>
    brakes.reduce((sum, brake, k) => sum + chosen[m][k] * Math.min(maxShare, brake * weight), 0),
  );
}

export function meanBrake(rule: MemoryRule | null, weights: readonly number[] = []): number {
  return weights.reduce((sum, weight, k) => sum + weight * rule!.brakes[k], 0);
}
