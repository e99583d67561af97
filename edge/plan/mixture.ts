/** Plans a mixture: its experts, their priors or fixed weights, and the prompt's tokens that weigh them. Pure. */
import { type CentroidRecord, type Manifest, staticId } from "../../shared/artifacts/manifest.ts";
import type { MixtureRequest } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { defaultCalibration, priorsOf, type Span } from "../../shared/math/evidence.ts";

export interface Candidate {
  id: string;
  /** Hash of an own adapter's fitted parts; null for a centroid's adapter. */
  ownHash: string | null;
  /** Cosine similarity of the prompt's embedding and the adapter's centroid. */
  similarity: number;
  gain: CentroidRecord["gain"];
  /** True if the adapter did not gain on held-out text. The static adapter or the base answers in its place. */
  isOff: boolean;
}

export interface Listed {
  /** null: the base. */
  candidate: Candidate | null;
  /** The expert's weight in the request; null: evidence weighs the expert. Either all entries of a list have a weight, or none. */
  weight: number | null;
}

export interface EvidenceTokens {
  tokens: number;
  /** Only for chats: spans of the messages' contents. Tokens outside the spans do not count as evidence. */
  spans?: Span[];
}

export interface PlannedMixture {
  mode: "evidence" | "fixed";
  /** The experts without the base, in the order of `request.adapters`. */
  experts: Candidate[];
  request: MixtureRequest;
}

type Set = Pick<Manifest, "evidence" | "static">;

/** Minimum prior of the base in a chat. Adapters are trained on plain text, so they make the end of a message less likely. */
const chatBasePrior = 0.9;

function calibrationOf({ evidence = defaultCalibration }: Set, { spans }: EvidenceTokens) {
  return spans ? { ...evidence, base: Math.max(evidence.base, chatBasePrior) } : evidence;
}

/** null if the set has no static adapter. */
export function staticCandidate({ static: fixed }: Set): Candidate | null {
  return fixed ? { id: staticId, ownHash: null, similarity: 0, gain: fixed.gain, isOff: false } : null;
}

/**
 * The mixture of `auto`: the base, `own` adapters, the nearest centroids' adapters, and the static adapter. The number of adapters is
 * limited; own adapters come first. `nearest`: sorted, the nearest first.
 */
export function automaticMixture(
  nearest: readonly Candidate[],
  set: Set,
  evidence: EvidenceTokens,
  own: readonly Candidate[] = [],
): PlannedMixture {
  const calibration = calibrationOf(set, evidence);
  const { temper, floor } = calibration;
  const fixed = staticCandidate(set);
  const places = limits.mixtureAdapters - (fixed ? 1 : 0);
  const mine = own.filter(({ isOff }) => !isOff).slice(0, places - 1);
  const near = [...mine, ...nearest.slice(0, Math.min(calibration.adapters, places - mine.length))];
  const priors = priorsOf(near, fixed !== null, calibration);
  const experts = near.filter(({ isOff }) => !isOff);
  const weights = [...priors.adapters];
  if (fixed) {
    experts.push(fixed);
    weights.push(priors.fixed);
  }
  const request = { base: priors.base, adapters: weighted(experts, weights), evidence: { ...evidence, temper, floor } };
  return { mode: "evidence", experts, request };
}

/** The mixture of listed experts. Given weights are scaled to a sum of 1. Without weights, evidence weighs the experts. */
export function listedMixture(listed: readonly Listed[], set: Set, evidence: EvidenceTokens): PlannedMixture {
  const { base, temper, floor } = calibrationOf(set, evidence);
  const isFixed = listed[0].weight !== null;
  const adapters = listed.filter(({ candidate }) => candidate !== null).length;
  const baseWeight = adapters === listed.length ? 0 : adapters === 0 ? 1 : base;
  const sum = listed.reduce((total, { weight }) => total + (weight ?? 0), 0);
  const weightOf = ({ candidate, weight }: Listed) =>
    weight !== null ? weight / sum : candidate === null ? baseWeight : (1 - baseWeight) / adapters;
  /** Experts by adapter id. The key null is the base. */
  const active = new Map<string | null, { candidate: Candidate | null; weight: number }>();
  for (const one of listed) {
    const candidate = one.candidate && servedFor(one.candidate, set);
    const before = active.get(candidate?.id ?? null)?.weight ?? 0;
    active.set(candidate?.id ?? null, { candidate, weight: before + weightOf(one) });
  }
  const ofAdapters = [...active.values()].flatMap(({ candidate, weight }) =>
    candidate ? [{ candidate, weight }] : [],
  );
  // Own adapters come first, so that no other tenant shares the micro-batch.
  const isOwn = ({ ownHash }: Candidate) => Number(ownHash !== null);
  ofAdapters.sort(({ candidate: a }, { candidate: b }) => isOwn(b) - isOwn(a) || b.similarity - a.similarity);
  const experts = ofAdapters.map(({ candidate }) => candidate);
  const weights = ofAdapters.map(({ weight }) => Math.min(1, weight));
  return {
    mode: isFixed ? "fixed" : "evidence",
    experts,
    request: {
      base: Math.min(1, active.get(null)?.weight ?? 0),
      adapters: weighted(experts, weights),
      ...(!isFixed && { evidence: { ...evidence, temper, floor } }),
    },
  };
}

/** If a candidate is off, the static adapter replaces a centroid's adapter, and the base (null) replaces an own adapter. */
export function servedFor(candidate: Candidate, set: Set): Candidate | null {
  if (!candidate.isOff) return candidate;
  return candidate.ownHash === null ? staticCandidate(set) : null;
}

export function evidenceCount({ tokens, spans = [[0, tokens]] }: EvidenceTokens): number {
  return spans.reduce((sum, [start, end]) => sum + Math.max(0, Math.min(end, tokens) - start), 0);
}

function weighted(experts: readonly Candidate[], weights: readonly number[]): MixtureRequest["adapters"] {
  return experts.map(({ id, ownHash }, i) =>
    ownHash === null ? { centroidId: id, weight: weights[i] } : { adapterHash: ownHash, weight: weights[i] },
  );
}
