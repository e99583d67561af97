/**
 * How a prompt decides what answers it. Experts (the base and adapters) predict the prompt's own tokens; how well they do so
 * weighs them, and the weights then stay as they are. Weighing on generated text would favour the expert that is surest of
 * itself, so it is never done. The answer's adapter is the weighted mean of the experts' (gpu-backend/adapters/adapter.ts): its
 * probabilities are the experts', each to the power of its weight, multiplied and scaled to add up to 1. That scale is at least 1,
 * so log p of a token is at least Σ weight · log p under the experts. Pure.
 */

/** Tokens [start, end) of a prompt. */
export type Span = [start: number, end: number];

/** The tokens of a prompt that may be evidence. */
export interface EvidenceTokens {
  /** Only of the first so many prompt tokens evidence is taken (`positionsOfEvidence`). */
  tokens: number;
  /** Token ranges [start, end), rising, where only these of the first `tokens` are evidence. */
  spans?: Span[] | undefined;
}

/** How the experts of one prompt are weighed. */
export interface EvidenceRule extends EvidenceTokens {
  /** η: the log-likelihood of each token that is looked at counts this much. Plain Bayes would be 1. */
  temper: number;
  /** Least weight of the base. */
  floor: number;
}

/** How mixtures are made; the manifest's `evidence`. */
export interface EvidenceCalibration {
  /** Nearest centroids that become experts. */
  adapters: number;
  /** Their priors go with exp(scale · similarity). */
  similarityScale: number;
  /** Prior of the base. */
  base: number;
  temper: number;
  floor: number;
}

/** Used where a manifest brings no calibration of its own. */
export const defaultCalibration: EvidenceCalibration = {
  ...{ adapters: 3, similarityScale: 10 },
  ...{ base: 0.5, temper: 0.3, floor: 0.1 },
};

/** How much likelier than a centroid's an own adapter as near to the prompt is before any evidence. Chosen on ten kinds of text. */
const ownOdds = 5;

/** A centroid near a prompt, or an adapter of the tenant's own. */
export interface NearCentroid {
  similarity: number;
  /** null: a centroid's. */
  ownHash: string | null;
  /** Its adapter gains nothing where it was measured, so the static adapter or the base stands in for it. */
  isOff: boolean;
}

/** Priors of a mixture's experts; they add up to 1. */
export interface Priors {
  base: number;
  /** Of the static adapter; 0 where there is none. */
  fixed: number;
  /** Of the adapters that are on, in order. */
  adapters: number[];
}

/**
 * The static adapter, where there is one, has half of what the base leaves, and the centroids the rest. An own adapter lies above
 * the static one, so it takes that one's place in its own share. A centroid that is off
 * leaves its prior to the static adapter, or else to the base: text that is nearest to it is text that its adapter harms.
 */
export function priorsOf(
  nearest: readonly NearCentroid[],
  hasStatic: boolean,
  { base, similarityScale }: Pick<EvidenceCalibration, "base" | "similarityScale">,
): Priors {
  const highest = nearest.reduce((most, { similarity }) => Math.max(most, similarity), Number.NEGATIVE_INFINITY);
  const weights = nearest.map(
    ({ similarity, ownHash }) => (ownHash ? ownOdds : 1) * Math.exp(similarityScale * (similarity - highest)),
  );
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const ofCentroids = hasStatic ? (1 - base) / 2 : 1 - base;
  const adapters = weights.flatMap((weight, k) =>
    nearest[k].isOff ? [] : [((nearest[k].ownHash ? 1 - base : ofCentroids) * weight) / sum],
  );
  // Adapters that take all may add up to a little more than 1.
  const left = Math.max(0, 1 - adapters.reduce((total, prior) => total + prior, 0));
  return hasStatic
    ? { base: Math.min(base, left), fixed: Math.max(0, left - base), adapters }
    : { base: left, fixed: 0, adapters };
}

/** Weights of a mixture's experts; they add up to 1. */
export interface MixtureWeights {
  base: number;
  adapters: number[];
}

/** What the mixture gained at least on the tokens that were looked at, each under the weights of those before it. */
export interface PromptEvidence {
  /** Mean over the base, in nats a token. */
  nats: number;
  tokens: number;
}

/** Maximum tokens of a prompt that are looked at: each takes a row of the head for every expert. */
export const evidencePositions = 15;
/** Adapters below this weight get weight 0. */
const leastWeight = 0.01;
/** A token's log-probability counts as at least this, about the least that float32 holds a probability of. */
const leastLogprob = -85;

/**
 * The positions t whose next token is looked at, rising: all whose next token is evidence, or `most` of them, spread evenly and the
 * last included.
 */
export function positionsOfEvidence(tokens: number, spans?: readonly Span[], most = evidencePositions): number[] {
  const all = positionsBeforeEvidence(tokens, spans);
  const count = Math.min(all.length, most);
  return Array.from({ length: count }, (_, i) => all[Math.floor(((i + 1) * all.length) / count) - 1]);
}

/** The same tokens after `count` others were put before token `at` of the prompt. */
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

/** All positions whose next token is evidence. The first token of a prompt has none before it. */
function positionsBeforeEvidence(tokens: number, spans: readonly Span[] = [[0, tokens]]): number[] {
  return spans.flatMap(([start, end]) => {
    const first = Math.max(0, start - 1);
    const count = Math.max(0, Math.min(end, tokens) - 1 - first);
    return Array.from({ length: count }, (_, i) => first + i);
  });
}

/**
 * Weighs experts of these priors (the base's first; they add up to 1) by prior · exp(η · Σ log p) of the tokens at
 * `positionsOfEvidence`. `logprobs`: of each of these tokens under each expert.
 */
export function weigh(
  priors: readonly number[],
  { temper, floor }: Pick<EvidenceRule, "temper" | "floor">,
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

/** Leaves out what weighs next to nothing, and gives the base its floor. */
export function withFloor({ base, adapters }: MixtureWeights, floor: number): MixtureWeights {
  const kept = adapters.map((weight) => (weight < leastWeight ? 0 : weight));
  const others = kept.reduce((sum, weight) => sum + weight, 0);
  const ofBase = Math.max(base / (base + others), others > 0 ? floor : 1);
  return { base: ofBase, adapters: kept.map((weight) => (others > 0 ? (weight * (1 - ofBase)) / others : 0)) };
}

/** Weights of these logarithms, adding up to 1. */
function normalised(logWeights: readonly number[]): number[] {
  const highest = Math.max(...logWeights);
  const weights = logWeights.map((logWeight) => Math.exp(logWeight - highest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}
