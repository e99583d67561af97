/**
 * Documents as a memory (kNN-LM: Khandelwal et al. 2020, arXiv 1911.00172; with an adaptive weight: He et al. 2021, arXiv 2109.04212).
 * A memory has a key for every token of its documents: the state before the last feed-forward part at the position before that token,
 * of length 1. At each step the keys nearest to the row's own state say which tokens may come next:
 * p = (1 − Σ λₘ) · p_model + Σ λₘ · p_memory,m, with a λ of each step, times a brake that the prompt's own tokens choose and that is
 * frozen after the prompt. Pure. Not here: the search (gpu-backend/memory/).
 */

/** How memories count; fitted on text of other kinds, with own and foreign memories in equal parts. */
export interface MemoryRule {
  /** Nearest keys that are looked at in each memory. */
  neighbours: number;
  /** A neighbour's share of p_memory goes with exp(θ · cosine). */
  theta: number;
  /** Of the logistic that gives λ, for [1, 5(s − .7), 10·max(0, s − .9), m, b, 5m(s − .7)] (`memoryWeight`). */
  weights: readonly [number, number, number, number, number, number];
  /** Factors of λ among which the prompt chooses, the first of them 0, and their priors, which add up to 1. */
  brakes: readonly number[];
  brakePriors: readonly number[];
  /** Most that all memories together may have of a token's probability: the model keeps the rest. */
  maxShare: number;
}

export const defaultMemoryRule: MemoryRule = {
  ...{ neighbours: 32, theta: 20, maxShare: 0.9 },
  weights: [-5.1, 1.9, 1.9, 1.3, -1.9, 2.8],
  ...{ brakes: [0, 0.3, 1, 1.6], brakePriors: [0.25, 0.25, 0.35, 0.15] },
};

/** Tokens of a prompt that choose the brakes, at most. */
export const brakePositions = 32;

/** The keys nearest to one state, best first. */
export interface Neighbours {
  cosines: Float32Array;
  /** The token that followed each. */
  nextIds: Int32Array;
}

/** p_memory: the probability of each token that a neighbour has, by token id. Empty for no neighbours. */
export function memoryProbabilities({ cosines, nextIds }: Neighbours, { theta }: MemoryRule): Map<number, number> {
  const probabilities = new Map<number, number>();
  const weights = Float64Array.from(cosines, (cosine) => Math.exp(theta * (cosine - cosines[0])));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  for (const [i, weight] of weights.entries()) {
    probabilities.set(nextIds[i], (probabilities.get(nextIds[i]) ?? 0) + weight / sum);
  }
  return probabilities;
}

/** What λ depends on: the cosine of the nearest key, and the greatest probability that the memory and the model give. */
export interface MemoryMatch {
  cosine: number;
  memory: number;
  model: number;
}

/** λ of one step before the brake. */
export function memoryWeight({ weights }: MemoryRule, match: MemoryMatch): number {
  const z = memoryFeatures(match).reduce((sum, feature, i) => sum + feature * weights[i], 0);
  return 1 / (1 + Math.exp(-z));
}

/** The features of the logistic, in the order of its weights. */
export function memoryFeatures({ cosine, memory, model }: MemoryMatch): number[] {
  const near = 5 * (cosine - 0.7);
  return [1, near, 10 * Math.max(0, cosine - 0.9), memory, model, memory * near];
}

/** What one memory says of one token of a prompt. */
export interface MemoryEvidence {
  /** λ before the brake. */
  weight: number;
  /** p_memory of the token that came. */
  probability: number;
}

/** Weight of each brake of each memory; they add up to 1 over all memories and brakes. */
export type BrakeWeights = number[][];

/** The priors, where no token of the prompt is evidence. */
export function priorBrakes(memories: number, { brakePriors }: MemoryRule): BrakeWeights {
  return Array.from({ length: memories }, () => brakePriors.map((prior) => prior / memories));
}

/** The probability of a token of which the model gives `model`, mixed with what memories say of it, before a prompt chooses brakes. */
export function mixedBeforeBrakes(rule: MemoryRule, model: number, says: readonly MemoryEvidence[]): number {
  const weights = says.map(({ weight }) => weight);
  const shares = memoryShares(rule, weights, priorBrakes(says.length, rule));
  return says.reduce((sum, { probability }, m) => sum + shares[m] * (probability - model), model);
}

/**
 * Weighs each brake of each memory by its prior and by the likelihood of the prompt's own tokens. `model` has p_model of each token
 * that is looked at, `evidence` what each memory says of it, [memories][tokens].
 */
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

/** The share of each memory in one step, from its λ before the brake and the weights of its brakes; together at most `maxShare`. */
export function memoryShares(
  { brakes, maxShare }: MemoryRule,
  weights: readonly number[],
  chosen: BrakeWeights,
): number[] {
  return weights.map((weight, m) =>
    brakes.reduce((sum, brake, k) => sum + chosen[m][k] * Math.min(maxShare, brake * weight), 0),
  );
}

/** The mean brake of a memory; 0 where none was chosen. */
export function meanBrake(rule: MemoryRule | null, weights: readonly number[] = []): number {
  return weights.reduce((sum, weight, k) => sum + weight * rule!.brakes[k], 0);
}
