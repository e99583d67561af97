/**
 * Weighs the experts that may answer a prompt: the base and adapters. An expert that predicts the prompt's tokens better gets more weight.
 * The weights are fixed after the prompt, because generated text would favour the most confident expert.
 * The answer's adapter is the weighted mean of the experts' adapters (gpu-backend/adapters/adapter.ts). So log p of a token is at least Σ
 * weight · log p under the experts. Pure.
 */

import type { Manifest } from "../artifacts/manifest.ts";

export type Span = [start: number, end: number];

/** Evidence: the first `tokens` prompt tokens. `spans` restricts them to ascending ranges [start, end). */
export interface EvidenceTokens {
  tokens: number;
  spans?: Span[] | undefined;
}

export type EvidenceCalibration = NonNullable<Manifest["evidence"]>;

export const defaultCalibration: EvidenceCalibration = {
  ...{ adapters: 3, similarityScale: 10 },
  ...{ base: 0.5, temper: 0.3, floor: 0.1 },
};

/** Prior of an own adapter, as a multiple of an equally near centroid's prior. Chosen on ten kinds of text. */
const ownOdds = 5;

interface NearCentroid {
  similarity: number;
  /** Hash of an own adapter; null for a centroid. */
  ownHash: string | null;
  /** Whether the centroid's adapter gained nothing on held-out text. */
  isOff: boolean;
}

/**
 * Priors of the base, the static adapter (`fixed`) and the adapters that are not off; their sum is 1. A static adapter gets half of what
 * the base leaves. A centroid that is off harms texts near it, so its prior goes to the static adapter or the base.
 */
export function priorsOf(
  nearest: readonly NearCentroid[],
  hasStatic: boolean,
  { base, similarityScale }: Pick<EvidenceCalibration, "base" | "similarityScale">,
) {
  const highest = nearest.reduce((most, { similarity }) => Math.max(most, similarity), Number.NEGATIVE_INFINITY);
  const weights = nearest.map(
    ({ similarity, ownHash }) => (ownHash ? ownOdds : 1) * Math.exp(similarityScale * (similarity - highest)),
  );
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const ofCentroids = hasStatic ? (1 - base) / 2 : 1 - base;
  const adapters = weights.flatMap((weight, k) =>
    nearest[k].isOff ? [] : [((nearest[k].ownHash ? 1 - base : ofCentroids) * weight) / sum],
  );
  // Rounding may make the sum exceed 1.
  const left = Math.max(0, 1 - adapters.reduce((total, prior) => total + prior, 0));
  return hasStatic
    ? { base: Math.min(base, left), fixed: Math.max(0, left - base), adapters }
    : { base: left, fixed: 0, adapters };
}

export interface MixtureWeights {
  base: number;
  adapters: number[];
}

/** Lower bound of the mixture's gain over the base. Each token is scored with the weights after the tokens before it. */
export interface PromptEvidence {
  /** Mean gain in nats a token. */
  nats: number;
  tokens: number;
}

/** Maximum tokens of evidence. The head computes each of them for every expert. */
export const evidencePositions = 15;
/** Adapters below this weight get weight 0. */
const leastWeight = 0.01;
/** Minimum log-probability of a token, about that of the smallest float32. */
const leastLogprob = -85;

/** Positions whose next token is evidence: all, or `most` evenly spread ones that include the last. */
export function positionsOfEvidence(tokens: number, spans?: readonly Span[], most = evidencePositions): number[] {
  const all = positionsBeforeEvidence(tokens, spans);
  const count = Math.min(all.length, most);
  return Array.from({ length: count }, (_, i) => all[Math.floor(((i + 1) * all.length) / count) - 1]);
}

/** Returns the evidence after `count` tokens, which are no evidence, were inserted before token `at`. */
export function evidenceAround({ tokens, spans = [[0, tokens]] }: EvidenceTokens, at: number, count: number) {
  const moved = spans.flatMap(([start, bound]): Span[] => {
    const end = Math.min(bound, tokens);
    if (start >= end) return [];
    if (end <= at) return [[start, end]];
    if (start >= at) return [[start + count, end + count]];
    return [
      [start, at],
      [at + count, end + count],
    ];
  });
  return { tokens: moved.at(-1)?.[1] ?? 0, spans: moved };
}

/** The first token of a prompt has no position before it. */
function positionsBeforeEvidence(tokens: number, spans: readonly Span[] = [[0, tokens]]): number[] {
  return spans.flatMap(([start, end]) => {
    const first = Math.max(0, start - 1);
    const count = Math.max(0, Math.min(end, tokens) - 1 - first);
    return Array.from({ length: count }, (_, i) => first + i);
  });
}

/** A weight is proportional to prior · exp(temper · Σ log p). `priors` begin with the base. `logprobs`: [tokens of evidence][experts]. */
export function weigh(
  priors: readonly number[],
  { temper, floor }: Pick<EvidenceCalibration, "temper" | "floor">,
  logprobs: readonly (readonly number[])[],
): { weights: MixtureWeights; evidence: PromptEvidence } {
  const logWeights = priors.map(Math.log);
  let gained = 0;
  for (const ofToken of logprobs) {
    const bounded = ofToken.map((logprob) => Math.max(leastLogprob, logprob));
    for (const [e, weight] of normalised(logWeights).entries()) gained += weight * (bounded[e] - bounded[0]);
    for (const [e, logprob] of bounded.entries()) logWeights[e] += temper * logprob;
  }
  const [base, ...adapters] = normalised(logWeights);
  return {
    weights: withFloor({ base, adapters }, floor),
    evidence: { nats: logprobs.length > 0 ? gained / logprobs.length : 0, tokens: logprobs.length },
  };
}

/** Sets adapters' weights below `leastWeight` to 0, and raises the base's weight to at least `floor`. The sum stays 1. */
export function withFloor({ base, adapters }: MixtureWeights, floor: number): MixtureWeights {
  const kept = adapters.map((weight) => (weight < leastWeight ? 0 : weight));
  const others = kept.reduce((sum, weight) => sum + weight, 0);
  const ofBase = Math.max(base / (base + others), others > 0 ? floor : 1);
  return { base: ofBase, adapters: kept.map((weight) => (others > 0 ? (weight * (1 - ofBase)) / others : 0)) };
}

/** Softmax. */
function normalised(logWeights: readonly number[]): number[] {
  const highest = Math.max(...logWeights);
  const weights = logWeights.map((logWeight) => Math.exp(logWeight - highest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}
