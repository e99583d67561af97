/**
 * How a prompt decides what answers it. Experts (the base, adapters, the pointer) predict the prompt's own tokens; how well
 * they do so weighs them, and the weights then stay as they are. Weighing on generated text would favour the expert that is
 * surest of itself, so it is never done.
 * The pointer copies: its probability of a token is the attention mass on prompt positions that the token follows (Grave,
 * Joulin, Usunier, arXiv 1612.04426). A sentinel takes part in the attention (Merity et al., arXiv 1609.07843): its mass goes
 * back to the experts, so the pointer says little where no position is like the one that asks. The pointer takes at most a
 * share λ of the answer, one of a few; each pair of an expert and a share has a weight. Pure.
 */

/** Tokens [start, end) of a prompt. */
export type Span = [start: number, end: number];

/** How the experts of one prompt are weighed. */
export interface EvidenceRule {
  /** Of the first so many prompt tokens evidence is taken (`positionsOfEvidence`); they are also what the pointer copies from. */
  tokens: number;
  /** Token ranges [start, end), rising, where only these of the first `tokens` are evidence. */
  spans?: Span[] | undefined;
  /** η: the log-likelihood of each token counts this much. Plain Bayes would be 1. */
  temper: number;
  /** Least weight of the base, so that no token is less likely than its probability under the base times this. */
  floor: number;
  pointer: {
    /** θ: the softmax is of θ · cosine. */
    sharpness: number;
    /** κ: mass of the sentinel, where a position whose key is the same has 1. Absent: 0. */
    sentinel?: number;
    /**
     * Mean surprisal of the prompt's evidence under the base, in nats a token, for which the priors of the shares hold: each nat
     * more divides the odds of share 0 by e. Absent: they hold for every prompt.
     */
    typicalSurprisal?: number;
    /** Shares λ that the pointer may take, with their priors. */
    shares: { share: number; prior: number }[];
  };
}

/** How mixtures are made for prompts of every length; the manifest's `evidence`. */
export interface EvidenceCalibration {
  /** Nearest centroids that become experts. */
  adapters: number;
  /** Their priors go with exp(scale · similarity). */
  similarityScale: number;
  /** The odds of the base go with exp(−scale · margin), the margin as in `marginOf`. Absent: 0. */
  marginScale?: number;
  /** Least weight of the base, whatever the prompt's length. */
  floor: number;
  sharpness: number;
  sentinel?: number;
  /** Shares that the pointer may take beside 0; equally likely before. */
  shares: readonly number[];
  /** By prompt length, rising; a prompt takes the last row that it reaches, or the first. */
  byLength: readonly {
    promptTokens: number;
    /** Prior of the base. */
    base: number;
    /** Prior of no pointer. */
    noPointer: number;
    temper: number;
    /** Least weight of the base for prompts of this length, not below that of all. Absent: the same. */
    floor?: number;
    /**
     * Margin, and surprisal in nats a token (`EvidenceRule`), for which the two priors hold. Absent: they hold for every prompt, as
     * they do for prompts that are shorter than the first row.
     */
    typical?: { margin: number; surprisal: number };
  }[];
}

/**
 * Used where a manifest brings no calibration of its own: about that of the embedded artifacts. Short prompts say little, so the
 * base keeps most of the weight there.
 */
export const defaultCalibration: EvidenceCalibration = {
  adapters: 3,
  similarityScale: 10,
  floor: 0.1,
  sharpness: 15,
  shares: [0.1, 0.3],
  byLength: [
    { promptTokens: 0, base: 0.8, noPointer: 0.9, temper: 0.2 },
    { promptTokens: 48, base: 0.7, noPointer: 0.85, temper: 0.1 },
  ],
};

/**
 * The rule for a prompt of which the first `tokens` are evidence, and the base's prior.
 * @param margin of the prompt (`marginOf`); null where centroids do not decide which adapters are weighed
 */
export function ruleFor(
  { floor: floorOfAll, sharpness, sentinel, shares, marginScale = 0, byLength }: EvidenceCalibration,
  tokens: number,
  margin: number | null,
): EvidenceRule & { basePrior: number } {
  const reached = byLength.findLast((row) => row.promptTokens <= tokens);
  const { base, noPointer, temper, floor = floorOfAll } = reached ?? byLength[0];
  const typical = reached?.typical;
  const more = margin === null || typical === undefined ? 0 : marginScale * (typical.margin - margin);
  const others = shares.map((share) => ({ share, prior: (1 - noPointer) / shares.length }));
  return {
    tokens,
    temper,
    floor,
    basePrior: more === 0 ? base : withLogOdds(base, more),
    pointer: {
      sharpness,
      ...(sentinel !== undefined && { sentinel }),
      ...(typical && { typicalSurprisal: typical.surprisal }),
      shares: [{ share: 0, prior: noPointer }, ...others],
    },
  };
}

/** The probability whose log odds are `more` than this one's. */
function withLogOdds(probability: number, more: number): number {
  return 1 / (1 + Math.exp(Math.log(1 - probability) - Math.log(probability) - more));
}

/**
 * By how much a prompt is nearer to its nearest centroid than to the second, in cosine similarity: text like that which a centroid
 * stands for has a clear nearest one, other text lies between several. Null where there is no second.
 * @param nearest the nearest first
 */
export function marginOf(nearest: readonly { similarity: number }[]): number | null {
  return nearest.length < 2 ? null : nearest[0].similarity - nearest[1].similarity;
}

/** A centroid near a prompt. */
export interface NearCentroid {
  similarity: number;
  /** Its adapter gains nothing where it was measured, so the base stands in for it. */
  isOff: boolean;
}

/**
 * Priors of the base and of the adapters that are on, in order; they add up to 1. A centroid that is off leaves its prior to
 * the base: text that is nearest to it is text that adapters harm.
 */
export function priorsOf(
  nearest: readonly NearCentroid[],
  basePrior: number,
  { similarityScale }: EvidenceCalibration,
): number[] {
  const highest = nearest.reduce((most, { similarity }) => Math.max(most, similarity), Number.NEGATIVE_INFINITY);
  const weights = nearest.map(({ similarity }) => Math.exp(similarityScale * (similarity - highest)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const adapters = weights.flatMap((weight, k) => (nearest[k].isOff ? [] : [((1 - basePrior) * weight) / sum]));
  // Adapters that take all may add up to a little more than 1.
  return [Math.max(0, 1 - adapters.reduce((total, prior) => total + prior, 0)), ...adapters];
}

/** The pointer's attention where one token is to be predicted. */
export interface PointerMass {
  /** On positions rather than on the sentinel. */
  all: number;
  /** On positions that the token follows. */
  found: number;
}

/** Probabilities of one prompt token under the experts. */
export interface TokenEvidence {
  /** Probability under the base, then under each adapter. */
  experts: ArrayLike<number>;
  pointer: PointerMass;
}

/** The answer's distribution (`mixedProbability`). The weights add up to 1. */
export interface MixtureWeights {
  base: number;
  adapters: number[];
  /** What the pointer takes where all of its attention is on positions; what it leaves, the others share by their weights. */
  pointer: number;
}

/** What the mixture gained on the tokens that were looked at, each under the weights of those before it. */
export interface PromptEvidence {
  /** Mean over the base, in nats a token. */
  nats: number;
  tokens: number;
}

/**
 * Tokens of a prompt that are looked at. Fewer gain less. With the row of the next token they make 16,
 * which processors with matrix tiles multiply at once.
 */
export const evidencePositions = 15;
/** Adapters and the pointer below this weight get weight 0 and are not computed. */
const leastWeight = 0.01;
/** Guards the logarithm of a probability that float32 could not hold. */
const leastProbability = 1e-37;
/** Float32 holds their product with any weight. Beyond, where a floor below 1e-30 leaves the pointer nearly all, the sum is below 1. */
const mostOdds = 1e30;

/** Of a token of this probability, in nats. */
export function surprisalOf(probability: number): number {
  return -Math.log(Math.max(probability, leastProbability));
}

/**
 * The positions t whose next token is looked at, rising: all whose next token is evidence, or `evidencePositions` of their
 * last half, spread evenly and the last included. Early in a prompt the pointer has little to copy from, so what it says there
 * tells little of what it is worth after the prompt.
 */
export function positionsOfEvidence(tokens: number, spans?: readonly Span[]): number[] {
  const all = positionsBeforeEvidence(tokens, spans);
  const late = all.slice(-Math.max(evidencePositions, Math.ceil(all.length / 2)));
  const count = Math.min(late.length, evidencePositions);
  return Array.from({ length: count }, (_, i) => late[Math.floor(((i + 1) * late.length) / count) - 1]);
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
 * The pointer's attention for the token after `position` of a prompt whose first `tokens` it may copy from. Only positions before
 * `position` are attended to; the mass found is that of those which the same token follows. `cosines` are of this
 * position's key and that of each position from the first on.
 */
export function pointerMass(
  cosines: ArrayLike<number>,
  ids: ArrayLike<number>,
  position: number,
  { tokens, sharpness, sentinel = 0 }: { tokens: number; sharpness: number; sentinel?: number },
): PointerMass {
  let all = 0;
  let found = 0;
  for (let i = 0; i < Math.min(position, tokens - 1); i++) {
    const mass = Math.exp(sharpness * (cosines[i] - 1));
    all += mass;
    if (ids[i + 1] === ids[position + 1]) found += mass;
  }
  const sum = all + sentinel;
  return sum > 0 ? { all: all / sum, found: found / sum } : { all: 0, found: 0 };
}

/** The pointer's weight by that of base and adapters together, which divide what the sentinel takes of it by their weights. */
export function pointerOdds({ base, adapters, pointer }: MixtureWeights): number {
  const others = adapters.reduce((sum, weight) => sum + weight, base);
  return Math.min(pointer / Math.max(others, leastProbability), mostOdds);
}

/** Probability of a token under a mixture. `odds` spare computing them for each of many tokens. */
export function mixedProbability(
  weights: MixtureWeights,
  { experts, pointer }: TokenEvidence,
  odds = pointerOdds(weights),
): number {
  const { base, adapters } = weights;
  let mixed = base * experts[0];
  for (let j = 0; j < adapters.length; j++) mixed += adapters[j] * experts[j + 1];
  return mixed * (1 + (1 - pointer.all) * odds) + weights.pointer * pointer.found;
}

/**
 * Weighs experts of these priors (the base's first; they add up to 1) by what they say of the tokens at
 * `positionsOfEvidence`. Each of those stands for an equal part of the evidence. The pointer's prior rises with the
 * mean surprisal of those before (`typicalSurprisal`). Here each expert gets by itself what the sentinel takes of a share; what
 * is served divides it by the weights that come out (`mixedProbability`).
 */
export function weigh(
  priors: readonly number[],
  rule: EvidenceRule,
  tokenEvidence: readonly TokenEvidence[],
): { weights: MixtureWeights; evidence: PromptEvidence } {
  const evidenceTokens = positionsBeforeEvidence(rule.tokens, rule.spans).length;
  const shares = evidenceTokens > 0 ? rule.pointer.shares : [{ share: 0, prior: 1 }];
  const pairs = priors.flatMap((prior, expert) =>
    shares.map(({ share, prior: ofShare }) => ({ expert, share, logWeight: Math.log(prior) + Math.log(ofShare) })),
  );
  const temper = (rule.temper * evidenceTokens) / Math.max(1, tokenEvidence.length);
  const { typicalSurprisal } = rule.pointer;
  let gained = 0;
  let surprisal = 0;
  /** What is added to the logarithms of the pairs without pointer after so many tokens, whose surprisals add up to `surprisal`. */
  const forNoPointer = (tokens: number) =>
    typicalSurprisal === undefined || tokens === 0 ? 0 : typicalSurprisal - surprisal / tokens;
  for (const [n, { experts, pointer }] of tokenEvidence.entries()) {
    const before = normalised(pairs, forNoPointer(n));
    let mixed = 0;
    pairs.forEach((pair, i) => {
      const { expert, share } = pair;
      const p = Math.max((1 - share * pointer.all) * experts[expert] + share * pointer.found, leastProbability);
      mixed += before[i] * p;
      pair.logWeight += temper * Math.log(p);
    });
    const ofBase = surprisalOf(experts[0]);
    gained += Math.log(mixed) + ofBase;
    surprisal += ofBase;
  }
  const after = normalised(pairs, forNoPointer(tokenEvidence.length));
  const byExpert = priors.map(() => 0);
  let pointer = 0;
  pairs.forEach(({ expert, share }, i) => {
    byExpert[expert] += after[i] * (1 - share);
    pointer += after[i] * share;
  });
  const [base, ...adapters] = byExpert;
  return {
    weights: withFloor({ base, adapters, pointer }, rule.floor),
    evidence: { nats: tokenEvidence.length > 0 ? gained / tokenEvidence.length : 0, tokens: tokenEvidence.length },
  };
}

/** Leaves out what weighs next to nothing, and gives the base its floor. */
export function withFloor({ base, adapters, pointer }: MixtureWeights, floor: number): MixtureWeights {
  const keep = (weight: number) => (weight < leastWeight ? 0 : weight);
  const kept = [...adapters, pointer].map(keep);
  const others = kept.reduce((sum, weight) => sum + weight, 0);
  const ofBase = Math.max(base / (base + others), others > 0 ? floor : 1);
  const scaled = kept.map((weight) => (others > 0 ? (weight * (1 - ofBase)) / others : 0));
  return { base: ofBase, adapters: scaled.slice(0, -1), pointer: scaled[scaled.length - 1] };
}

/** Weights of the pairs, adding up to 1; `forNoPointer` is added to the logarithms of those of share 0. */
function normalised(pairs: readonly { share: number; logWeight: number }[], forNoPointer: number): number[] {
  const logOf = ({ share, logWeight }: (typeof pairs)[number]) => (share === 0 ? logWeight + forNoPointer : logWeight);
  const highest = pairs.reduce((most, pair) => Math.max(most, logOf(pair)), Number.NEGATIVE_INFINITY);
  const weights = pairs.map((pair) => Math.exp(logOf(pair) - highest));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}
