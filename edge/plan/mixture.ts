/**
 * The mixture that answers a prompt: its experts, their priors or weights, and the prompt's tokens that weigh them. Pure. Not
 * here: which centroids are nearest (assign.ts), and the weighing, which the backend does.
 */
import type { CentroidRecord } from "../../shared/artifacts/manifest.ts";
import type { MixtureRequest } from "../../shared/contracts/inference.ts";
import { defaultCalibration, type EvidenceCalibration, priorsOf, type Span } from "../../shared/math/evidence.ts";

/** An adapter that may become an expert. */
export interface Candidate {
  id: string;
  /** null for a centroid's adapter. */
  ownHash: string | null;
  /** Cosine of prompt embedding and centroid. */
  similarity: number;
  gain: CentroidRecord["gain"];
  /** It did not gain on held-out text, so the base answers instead. */
  isOff: boolean;
}

/** An expert that a request lists. */
export interface Listed {
  /** null: the base. */
  candidate: Candidate | null;
  /** null in every entry of the list or in none; null: weighed by evidence. */
  weight: number | null;
}

/** The tokens of a prompt that weigh its experts. */
export interface EvidenceTokens {
  /** Only the first `tokens`. */
  tokens: number;
  /** Of a chat, the tokens of its messages' contents among them; absent: all. */
  spans?: Span[];
}

export interface PlannedMixture {
  mode: "evidence" | "fixed";
  /** In the order of the mixture's adapters. Micro-batch, routing and usage go by the first. */
  experts: Candidate[];
  request: MixtureRequest;
}

/** Of a manifest. */
interface Calibrated {
  evidence?: EvidenceCalibration | undefined;
}

/** The base and the nearest centroids' adapters. `nearest`: all centroids, nearest first. */
export function automaticMixture(
  nearest: readonly Candidate[],
  { evidence: calibration = defaultCalibration }: Calibrated,
  evidence: EvidenceTokens,
): PlannedMixture {
  const near = nearest.slice(0, calibration.adapters);
  const experts = near.filter(({ isOff }) => !isOff);
  const [base, ...priors] = priorsOf(near, calibration);
  const { temper, floor } = calibration;
  const request = { base, adapters: weighted(experts, priors), evidence: { ...evidence, temper, floor } };
  return { mode: "evidence", experts, request };
}

/**
 * The experts that a request lists. With weights, these are scaled to a sum of 1. Without, evidence weighs
 * them: the base, if listed, has its calibrated prior, and the adapters share the rest equally.
 */
export function listedMixture(
  listed: readonly Listed[],
  { evidence: calibration = defaultCalibration }: Calibrated,
  evidence: EvidenceTokens,
): PlannedMixture {
  const { base, temper, floor } = calibration;
  const isFixed = listed[0].weight !== null;
  const adapters = listed.filter(({ candidate }) => candidate !== null).length;
  const baseWeight = adapters === listed.length ? 0 : adapters === 0 ? 1 : base;
  const sum = listed.reduce((total, { weight }) => total + (weight ?? 0), 0);
  const weightOf = ({ candidate, weight }: Listed) =>
    weight !== null ? weight / sum : candidate === null ? baseWeight : (1 - baseWeight) / adapters;
  const active = listed.filter(({ candidate }) => candidate !== null && !candidate.isOff).sort(byRank);
  const experts = active.map(({ candidate }) => candidate!);
  const weights = active.map(weightOf);
  const others = listed.filter((one) => !active.includes(one)).reduce((total, one) => total + weightOf(one), 0);
  return {
    mode: isFixed ? "fixed" : "evidence",
    experts,
    request: {
      base: Math.min(1, others),
      adapters: weighted(experts, weights),
      ...(!isFixed && { evidence: { ...evidence, temper, floor } }),
    },
  };
}

/** Number of evidence tokens. */
export function evidenceCount({ tokens, spans = [[0, tokens]] }: EvidenceTokens): number {
  return spans.reduce((sum, [start, end]) => sum + Math.max(0, Math.min(end, tokens) - start), 0);
}

function weighted(experts: readonly Candidate[], weights: readonly number[]): MixtureRequest["adapters"] {
  return experts.map(({ id, ownHash }, i) =>
    ownHash === null ? { centroidId: id, weight: weights[i] } : { adapterHash: ownHash, weight: weights[i] },
  );
}

/** Own adapters first, so that no other tenant shares the micro-batch; then the nearest. */
function byRank({ candidate: a }: Listed, { candidate: b }: Listed): number {
  const own = Number(b!.ownHash !== null) - Number(a!.ownHash !== null);
  return own || b!.similarity - a!.similarity;
}
